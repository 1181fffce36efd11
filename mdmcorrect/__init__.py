"""mdmcorrect: self-correcting masked diffusion models, fast, exact and easy.

Importing this package is light: nothing here needs torch or the compiled library. The parts are

    mdmcorrect.ops         the operators: score_tokens, select_positions, remask_step
    mdmcorrect.samplers    samplers that find and mend their own mistakes: PRISM, ProSeCo, ReMDM, ...
    mdmcorrect.losses      the losses that teach a model to do so
    mdmcorrect.reference   the same operators in plain NumPy, float64: the truth the kernels are tested against
"""

__version__ = "0.1.0"
