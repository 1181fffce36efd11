"""What no test has the time for: kills, signals, hours.

python tools/endurance kills --times 20       kill -9 in training and in sampling at random moments
python tools/endurance signals                Ctrl-C in every preset: how long until the run is there
python tools/endurance soak --minutes 60      memory, descriptors and threads of a process that samples and scores
"""
