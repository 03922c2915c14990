"""Rewrites of a part's torch module before it is traced: one file an idea, exact in float32 as its docstring says.

Each function takes a module and changes it in place; what it does not know it leaves alone.
"""
