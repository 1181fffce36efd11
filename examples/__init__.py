"""Worked examples, installed as ``mdmcorrect.examples``: each a folder that trains, samples and evaluates one small model."""
