"""mdmcorrect.compat.proseco against recorded runs of the original."""

from recorded import check, inputs_of, recorded

from mdmcorrect.compat import proseco


@recorded("proseco")
def test_generation_equals_the_recorded_run(case):
    def run(model, ties):
        tokens, metrics, _ = proseco.generate(model, **inputs_of(case), **case["kwargs"], ties=ties)
        assert metrics["total_nfe"] == model.calls == metrics["nfe"] + metrics["corrector_nfe"]
        return tokens, None

    check(case, run)
