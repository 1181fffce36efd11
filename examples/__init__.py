"""Worked examples, installed as ``mdmcorrect.examples``: each trains, samples and evaluates one small model."""
