"""Pictures of molecules, by RDKit where it is installed."""

from __future__ import annotations

import base64
from functools import lru_cache

_SIZE = (320, 220)
_END = ("[EOS]", "<eos>", "</s>", "[SEP]", "<|endoftext|>", "[PAD]", "<pad>", "[BOS]", "<bos>", "<s>", "[CLS]")


@lru_cache(maxsize=256)
def picture_of(smiles: str) -> str:
    """A data address of an SVG, or "" where the text is no molecule or RDKit is not installed."""
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.Draw import rdMolDraw2D
    except ImportError:
        return ""
    for mark in _END:
        smiles = smiles.replace(mark, "")
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles.strip())
    if molecule is None or not molecule.GetNumAtoms():
        return ""
    drawing = rdMolDraw2D.MolDraw2DSVG(*_SIZE)
    drawing.drawOptions().clearBackground = False
    rdMolDraw2D.PrepareAndDrawMolecule(drawing, molecule)
    drawing.FinishDrawing()
    svg = drawing.GetDrawingText().encode()
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()
