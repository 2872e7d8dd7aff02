"""Operations with a fast implementation beside the plain PyTorch one: one folder per operation.

``reference.py`` is the definition in plain PyTorch. The other files of a folder are faster implementations, tested
against it in outputs and gradients. The function in ``__init__.py`` selects one by the input tensors.
"""
