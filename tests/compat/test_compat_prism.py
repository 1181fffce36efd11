"""mdmcorrect.compat.prism against recorded runs of the original."""

from types import SimpleNamespace

from hash_model import integer_hash_quality
from recorded import check, inputs_of, recorded

from mdmcorrect.compat import prism

TOKENIZER = SimpleNamespace(pad_token_id=0)


def with_quality(model):
    def call(tokens):
        return {"logits": model(tokens).logits, "remasking_conf": integer_hash_quality(tokens).logit()[..., None]}

    return call


@recorded("prism")
def test_inference_equals_the_recorded_run(case):
    def run(model, ties):
        options = {"tokenizer": TOKENIZER, "ties": ties, "quirks": "upstream"}
        called = with_quality(model) if case["kwargs"]["model_type"] == "PRISM" else model
        return prism.llada_inference(called, **inputs_of(case), **case["kwargs"], **options), None

    check(case, run)
