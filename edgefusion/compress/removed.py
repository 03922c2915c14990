"""What a student has not: the modules of its teacher from which nothing is inherited."""

from __future__ import annotations

from collections.abc import Iterable

from edgefusion.students.spec import Student


def removed_modules(teacher_keys: Iterable[str], student_keys: Iterable[str], student: Student) -> tuple[str, ...]:
    """Names of the largest modules of the teacher none of whose tensors the student has, in the teacher's order.

    Args:
        teacher_keys: names in the teacher's state dict.
        student_keys: names in the student's.
        student: what it inherits from where.
    """
    keys = list(teacher_keys)
    used = {student.teacher_key(key) for key in student_keys}
    alive = {prefix for key in keys if key in used for prefix in _prefixes(key)}
    gone: dict[str, None] = {}
    for key in keys:
        if key not in used:
            gone[next(prefix for prefix in _prefixes(key) if prefix not in alive)] = None
    return tuple(gone)


def _prefixes(key: str) -> list[str]:
    """Every module that holds a tensor, from the outermost in, and the tensor itself."""
    parts = key.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
