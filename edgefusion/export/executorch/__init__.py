"""A part as an ExecuTorch program: torch.export, legalised, lowered to a delegate, written as .pte."""
