"""Operations that have a fast form beside their plain one: one folder each.

`reference.py` is the definition, in plain PyTorch. What stands beside it is faster and tested
against it, outputs and gradients. The folder's function picks the form for the tensors at hand.
"""
