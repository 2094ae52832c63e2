"""What MkDocs needs to show jaxseg's docstrings as they are written (a griffe extension).

Names in single backticks become links where the package has them, formulas become MathML, and
classes whose fields are their arguments (Linen modules, pytrees, named tuples) get a signature.
"""

import re
from collections.abc import Iterator

import griffe
from latex2mathml.converter import convert

NAME = re.compile(r"(?<![`:\w])`([A-Za-z_][\w.]*)`(?!`)")
INLINE_FORMULA = re.compile(r":math:`([^`]+)`")
FORMULA = re.compile(r"^( *)\.\. math:: ((?:.+\n)+)", re.MULTILINE)
FIELDS_ARE_ARGUMENTS = ("nn.Module", "struct.PyTreeNode", "NamedTuple")


class Docstrings(griffe.Extension):
    """Changes every docstring of the package once it is read as a whole."""

    def on_package(self, *, pkg: griffe.Module, **_: object) -> None:
        """Griffe's hook."""
        for thing in _inside(pkg):
            if thing.docstring is not None:
                thing.docstring.value = _as_markdown(thing.docstring.value, thing)
            if isinstance(thing, griffe.Class) and _fields_are_arguments(thing):
                thing.set_member("__init__", _constructor(thing))


def _inside(thing: griffe.Object) -> Iterator[griffe.Object]:
    yield thing
    for member in list(thing.members.values()):
        if isinstance(member, griffe.Object):
            yield from _inside(member)


def _as_markdown(text: str, thing: griffe.Object) -> str:
    text = FORMULA.sub(lambda found: found[1] + _mathml(found[2], "block") + "\n", text + "\n")
    text = INLINE_FORMULA.sub(lambda found: _mathml(found[1], "inline"), text)
    return NAME.sub(lambda found: _link(found[1], thing), text).strip()


def _mathml(formula: str, display: str) -> str:
    # Inside a span, since Markdown takes a line that starts with <math> for a block of HTML.
    mathml = convert(" ".join(formula.split()), display=display)
    return f"<span>{mathml}</span>"


def _link(name: str, thing: griffe.Object) -> str:
    """Optional, since what a docstring names may be public and yet on no page."""
    try:
        path = name if name.startswith("jaxseg.") else thing.resolve(name)
    except griffe.NameResolutionError:
        return f"`{name}`"
    if not path.startswith("jaxseg."):
        return f"`{name}`"
    return f'<autoref optional identifier="{path}"><code>{name}</code></autoref>'


def _fields_are_arguments(thing: griffe.Class) -> bool:
    bases = {str(base) for base in thing.bases}
    decorators = {str(decorator.value) for decorator in thing.decorators}
    return bool(bases.intersection(FIELDS_ARE_ARGUMENTS)) or "flax.struct.dataclass" in decorators


def _constructor(thing: griffe.Class) -> griffe.Function:
    fields = [
        griffe.Parameter(
            name,
            annotation=member.annotation,
            kind=griffe.ParameterKind.positional_or_keyword,
            default=member.value,
        )
        for name, member in thing.members.items()
        if isinstance(member, griffe.Attribute) and member.annotation is not None
    ]
    this = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    return griffe.Function("__init__", parameters=griffe.Parameters(this, *fields), parent=thing)
