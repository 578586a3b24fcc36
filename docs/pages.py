"""The pages that are made: an algorithm's from its docstring and record, an example's from its
header, the reference's from what the package exports.

A docstring is Markdown with Google's sections (`Args:`, `Raises:`, `Example:`). An algorithm's has
two paragraphs more, `When to use: ...` and `Elsewhere: ...`; what follows the latter belongs to it.
Nothing here needs Sphinx: each function returns the text of a page, and `write` puts them all into
a folder.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import pkgutil
import re
import textwrap
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras_adamfamily as kaf
from keras_adamfamily import registry

ROOT = Path(__file__).parent.parent
#: Which pictures concern which algorithms, by the name of the example that draws them.
PICTURES = {
    "adam_does_not_converge": ("SGD", "Adagrad", "Adam", "AMSGrad", "AdamNC", "ADOPT"),
    "bias_correction": ("Adam", "RMSprop"),
    "step_size_and_scale": ("SGD", "RMSprop", "Adadelta", "Adam", "Adamax"),
    "l2_is_not_weight_decay": ("SGD", "SGDW", "Adam", "AdamW"),
    "normalized_decay": ("AdamW", "SGDW"),
    "warm_restarts": ("AdamW", "SGDW"),
    "swats_switch": ("SWATS",),
    "nd_adam_directions": ("NDAdam",),
    "cifar10_resnet": ("SGDW", "AdamW", "NAdamW", "SWATS", "NDAdam"),
    "trajectories": tuple(kaf.names()),
}


# Docstrings.


@dataclasses.dataclass(frozen=True)
class Docstring:
    """A docstring in its parts, each of them Markdown."""

    title: str
    body: str
    when: str
    elsewhere: str
    sections: dict[str, str]

    @property
    def entries(self) -> dict[str, str]:
        """What `Args:` or `Attributes:` say of each name."""
        text = self.sections.get("Args") or self.sections.get("Attributes", "")
        found = re.findall(r"^(\*{0,2}\w+): (.*(?:\n(?: .*)?)*)", text, re.MULTILINE)
        return {name: " ".join(meaning.split()) for name, meaning in found}

    @property
    def equations(self) -> list[str]:
        """The blocks in plain fences, as they stand."""
        return re.findall(r"^```\n(.*?)^```", self.body, re.MULTILINE | re.DOTALL)


def parse(text: str) -> Docstring:
    """A docstring's parts."""
    text, *rest = re.split(r"^([A-Z]\w+):\n", inspect.cleandoc(text), flags=re.MULTILINE)
    sections = {
        name: textwrap.dedent(body).strip()
        for name, body in zip(rest[::2], rest[1::2], strict=True)
    }
    title, _, body = text.partition("\n\n")
    body, _, elsewhere = body.partition("\nElsewhere: ")
    before, _, when = body.partition("\nWhen to use: ")
    return Docstring(
        " ".join(title.split()), before.strip(), when.strip(), elsewhere.strip(), sections
    )


def documented(subject: Any) -> Docstring:
    return parse(inspect.getdoc(subject))


# Public names.


@functools.cache
def namespaces() -> dict[str, dict[str, Any]]:
    """What users import, by module: from the package itself, its subpackages, and those of its
    modules that it exports."""
    found = {"keras_adamfamily": _members(kaf)}
    for info in pkgutil.iter_modules(kaf.__path__):
        if (info.ispkg and info.name != "optimizers") or info.name in kaf.__all__:
            name = f"keras_adamfamily.{info.name}"
            found[name] = _members(importlib.import_module(name))
    return found


def _members(module) -> dict[str, Any]:
    """The names in `__all__`, or those defined below the module if there is none."""
    defined = [
        name
        for name, value in vars(module).items()
        if str(getattr(value, "__module__", "")).startswith(module.__name__) and name[0] != "_"
    ]
    members = {name: getattr(module, name) for name in getattr(module, "__all__", defined)}
    return {
        name: member
        for name, member in members.items()
        if not (name.startswith("__") or inspect.ismodule(member))
    }


@functools.cache
def targets() -> dict[str, str]:
    """The label of every public name, and of every documented method of a public class."""
    found = {}
    for module, members in namespaces().items():
        for name, member in members.items():
            label = f"{module}.{name}".lower()
            found.setdefault(name, label)
            for method in _methods(member) if inspect.isclass(member) else ():
                found[f"{name}.{method}"] = f"{label}.{method}"
    for method, member in _methods(kaf.FamilyOptimizer).items():
        if not isinstance(member, property):  # which share their names with arguments
            found[method] = found[f"FamilyOptimizer.{method}"]
    return found


def _methods(cls) -> dict[str, Any]:
    """Methods and properties that a class itself defines and documents; of an algorithm, only the
    properties that its family does not have."""
    kinds, known = (types.FunctionType, classmethod, property, functools.cached_property), ()
    if issubclass(cls, kaf.FamilyOptimizer) and cls is not kaf.FamilyOptimizer:
        kinds, known = (property,), dir(kaf.FamilyOptimizer)
    return {
        name: member
        for name, member in vars(cls).items()
        if isinstance(member, kinds) and not name.startswith("_") and name not in known
        if getattr(getattr(member, "__func__", member), "__doc__", None)
    }


# From text to Markdown.


def linked(text: str, here: str = "") -> str:
    """Links `code` that is a public name or a file to it, and arXiv numbers to the paper."""
    parts = re.split(r"(^ *```.*?^ *```)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if "```" in part else _linked(part, here) for part in parts)


def _linked(text: str, here: str) -> str:
    def link(match):
        code, path = match[1], match[1].partition("::")[0]
        label = targets().get(code.removeprefix("kaf."))
        if path == f"examples/{Path(path).stem}.py" and Path(path).stem in headers():
            label = f"example-{Path(path).stem}"
        if label and code != here:
            return f"[`{code}`](#{label})"
        return f"{{source}}`{code}`" if "/" in path and (ROOT / path).is_file() else match[0]

    text = re.sub(r"(?<![\[}`])`([\w./:]+)`", link, text)
    return re.sub(r"(?<!\[)arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def table(header: tuple[str, ...], rows) -> str:
    """A Markdown table; `|` in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(
        "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\|", str(cell)) for cell in line) + " |\n"
        for line in lines
    )


def fenced(text: str) -> str:
    """Marks `>>>` and what follows as code, up to an empty line; less what only its test needs."""
    text = re.sub(r" *# doctest: .*|^\.\.\. *\n", "", text, flags=re.MULTILINE)
    return re.sub(r"(^>>> .*(?:\n.+)*)", r"```pycon\n\1\n```", text, flags=re.MULTILINE)


def defaults(cls) -> dict[str, Any]:
    """The default of every argument that the constructor takes or passes on; its own come first."""
    found = {}
    for owner in cls.__mro__:
        if "__init__" in vars(owner):
            for p in inspect.signature(owner.__init__).parameters.values():
                if p.default is not p.empty:
                    found.setdefault(p.name, p.default)
        if owner is kaf.FamilyOptimizer:
            break
    return found


def accepted(cls, name: str) -> str:
    """The range or the choices of an argument, from where the class declares them."""
    if name == "learning_rate":
        return "a float >= 0, a schedule, or a callable"
    if name == "weight_decay":
        return "a float >= 0, or a form of decay"
    declared = inspect.getattr_static(cls, name, None)
    if hasattr(declared, "choices"):
        return ", ".join(f"`{shown(choice)}`" for choice in declared.choices)
    if hasattr(declared, "interval"):
        low, high = declared.interval.low, declared.interval.high
        if high == float("inf"):
            return f"{'>' if declared.interval.open_low else '>='} {low:g}"
        return str(declared.interval)
    if hasattr(declared, "minimum"):
        return f"an integer >= {declared.minimum}"
    return ""


def meaning(text: str) -> str:
    """An entry of `Args:` without the range and default that end its sentence."""
    kind = r"(?:an? (?:float|integer) (?:in [\[(][^\])]*[\])]|>=? [\d.]+), )?"
    text = re.sub(rf"[,;] {kind}(?:`[^`]*`|\S+) by default(?=[.;])", "", text)
    return text if " " in text else text.rstrip(".")


def shown(value: Any) -> str:
    """A default as one would write it."""
    if isinstance(value, float):
        return re.sub(r"e-0", "e-", f"{value:g}")
    return f'"{value}"' if isinstance(value, str) else re.sub(r"e-0", "e-", repr(value))


# Pages.


def algorithm(record: registry.Record) -> str:
    """The page of an algorithm."""
    cls, docstring = record.cls, documented(record.cls)
    low, high = record.learning_rate
    weak, strong = record.weight_decay
    decay = f"`Normalized` weight decay {weak:g}"
    names = " ".join(f"`{name}`" for name in (record.name.lower(), *record.aliases))
    state, vectors = record.state_per_parameter, record.state_per_vector
    per_vector = f" and {vectors} per weight vector" if vectors else ""
    facts = [
        ("What it is for", record.fixes),
        ("Paper", record.paper),
        ("State", f"{state} number{'s' * (state != 1)} per parameter{per_vector}, by default"),
        ("Searched by default", f"learning rate {low:g} to {high:g}, {decay} to {strong:g}"),
        ("Names for `get`", names),
        ("Source", f"`{Path(inspect.getfile(cls)).relative_to(ROOT)}`"),
    ]
    arguments = [
        (
            f"`{name}`",
            f"`{shown(defaults(cls)[name])}`",
            accepted(cls, name),
            linked(meaning(text), record.name),
        )
        for name, text in docstring.entries.items()
        if not name.startswith("*")
    ]
    more = docstring.entries.get("**kwargs", "")
    parts = [
        f"({targets()[record.name]})=\n# {record.name}\n",
        linked(docstring.title, record.name),
        "\n".join(f":{key}: {linked(value, record.name)}" for key, value in facts),
        "## The rule\n",
        linked(docstring.body, record.name),
        "## When to use it\n",
        linked(_sentence(docstring.when), record.name),
        "## What it does\n",
        _card(record),
        "## Arguments\n",
        table(("Argument", "Default", "Accepted", "Meaning"), arguments),
        linked(f"Further: {more[:1].lower()}{more[1:]}", record.name),
        "## Elsewhere\n",
        linked(_sentence(docstring.elsewhere), record.name),
        "## Example\n",
        fenced(docstring.sections["Example"]),
        *_members_of(cls, record.name),
        *_pictures(record.name),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _card(record: registry.Record) -> str:
    beside = "SGD" if record.name == "Adam" else "Adam"
    if hasattr(record.cls, "vectors"):
        text = (
            "A weight vector of two inputs, under a gradient that is the same at every step. In "
            f"grey: {beside}, with a first step of the same length."
        )
    else:
        text = (
            "Each step of a single weight with the default arguments, in units of the learning "
            f"rate, under the gradients drawn in grey above it. In grey below: {beside}."
        )
        if record.cls().get_config()["weight_decay"]:
            text += " The weight starts at 100, so that its decay shows."
    images = [
        f"```{{image}} /generated/cards/{record.name.lower()}-{theme}.svg\n"
        f":alt: What {record.name} does, beside {beside}\n:class: only-{theme}\n```"
        for theme in ("light", "dark")
    ]
    return "\n\n".join([*images, text])


def _members_of(cls, name: str, heading: str = "## ") -> list[str]:
    """Entries of the methods and properties of a class."""
    parts = []
    for method, member in _methods(cls).items():
        parts += [
            f"({targets()[f'{name}.{method}']})=\n{heading}`{name}.{method}`\n",
            entry(getattr(member, "__func__", member), method),
        ]
    return parts


def _pictures(name: str) -> list[str]:
    shown = []
    for example_name, concerned in PICTURES.items():
        if name in concerned and (ROOT / "docs" / "pictures" / f"{example_name}.png").exists():
            shown.append(_picture(example_name))
    return ["## Pictures\n", *shown] if shown else []


def _picture(name: str) -> str:
    header = headers().get(name)
    title = header.title if header else name
    caption = f"[{title}](#example-{name})" if header else title
    return f"```{{figure}} /pictures/{name}.png\n:alt: {title}\n\n{caption}\n```"


def entry(subject: Any, name: str) -> str:
    """Signature and docstring of a class, a function, a property or a dictionary."""
    if isinstance(subject, Mapping):
        return f"A dictionary with the keys {', '.join(f'`{key!r}`' for key in subject)}."
    docstring = documented(subject)
    parts = [linked(docstring.title, name), linked(fenced(docstring.body), name)]
    if callable(subject) and "Attributes" not in docstring.sections:
        parts.insert(0, f"```python\n{_signature(subject, name)}\n```")
    if docstring.entries:
        kind = "Argument" if "Args" in docstring.sections else "Attribute"
        rows = [(f"`{key}`", linked(text, name)) for key, text in docstring.entries.items()]
        parts.append(table((kind, "Meaning"), rows))
    for title in ("Returns", "Raises"):
        if title in docstring.sections:
            parts.append(f"**{title}**\n\n{linked(_list(docstring.sections[title]), name)}")
    if "Example" in docstring.sections:
        parts.append(fenced(docstring.sections["Example"]))
    return "\n\n".join(part.strip() for part in parts if part)


def _list(text: str) -> str:
    """`ValueError: If ...` line by line, as a list."""
    text = re.sub(r"\n +", " ", text)
    return re.sub(r"^(\w+Error): ", r"- `\1`: ", text, flags=re.MULTILINE)


def _signature(subject: Any, name: str) -> str:
    """Name and arguments without their types; one to a line where they do not fit into one."""
    made_by = subject.__init__ if inspect.isclass(subject) else subject
    signature = inspect.signature(made_by)
    parameters = [
        p.replace(annotation=p.empty)
        for p in signature.parameters.values()
        if p.name not in ("self", "cls")
    ]
    whole = str(signature.replace(parameters=parameters, return_annotation=signature.empty))
    if len(name + whole) <= 72:
        return name + whole
    lines = [str(p) for p in parameters]
    first = next((i for i, p in enumerate(parameters) if p.kind == p.KEYWORD_ONLY), len(lines))
    if first < len(lines):
        lines.insert(first, "*")
    return f"{name}(\n" + "".join(f"    {line},\n" for line in lines) + ")"


#: Titles of the pages whose module's docstring is about its code and not for users.
TITLES = {"base": "The common base", "registry": "Lookup"}


def reference() -> dict[str, str]:
    """The pages of the reference, by file name: one for each module that defines public names."""
    algorithms = [record.cls for record in registry.RECORDS]
    homes: dict[str, dict[str, Any]] = {}
    for namespace, members in namespaces().items():
        for name, member in members.items():
            if member not in algorithms:
                of_package = namespace == "keras_adamfamily"
                home = member.__module__ if of_package else namespace
                homes.setdefault(home, {})[name] = member
    return {home.partition(".")[2]: _reference(home, members) for home, members in homes.items()}


def _reference(home: str, members: dict[str, Any]) -> str:
    short = home.partition(".")[2]
    title = TITLES.get(short, _sentence(short.replace("_", " ")))
    parts = [f"# {title}\n"]
    if short not in TITLES:
        intro = parse(importlib.import_module(home).__doc__)
        parts += [linked(intro.title), linked(fenced(intro.body))]
    for name, member in members.items():
        label = targets()[name]
        parts += [f"({label})=\n## {name if short in label else f'kaf.{name}'}\n"]
        parts += [entry(member, name)]
        if inspect.isclass(member):
            parts += _members_of(member, name, "### ")
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def overview() -> str:
    """The table of all algorithms."""
    rows = [
        (f"[{r.name}](#{targets()[r.name]})", linked(r.paper), r.state, r.fixes)
        for r in registry.RECORDS
    ]
    names = "\n".join(record.name.lower() for record in registry.RECORDS)
    return (
        "# The algorithms\n\n"
        "State: numbers kept for each parameter with the default arguments.\n\n"
        + table(("Name", "Paper", "State", "What it is for"), rows)
        + f"\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    )


@functools.cache
def headers() -> dict[str, Docstring]:
    """The headers of the examples by name."""
    paths = sorted((ROOT / "examples").glob("*.py"))
    return {
        path.stem: parse(ast.get_docstring(ast.parse(path.read_text("utf-8"))))
        for path in paths
        if path.stem != "common"
    }


def gallery() -> str:
    """The page of the examples: what each claims, its picture, and how to run it."""
    parts = [
        "# Gallery\n",
        "Each picture is drawn by a short program in `examples/`, and what it claims is tested in "
        "`tests/examples/`. The programs need the extra `tuning`, no network and at most three "
        "minutes on two cores unless they say otherwise.",
    ]
    for name, header in headers().items():
        field = r"^(Claim|Source|Expected|Run time): *"
        text = re.sub(field, r"\n**\1.** ", header.body, flags=re.MULTILINE)
        text = re.sub(
            r"^ {4}(\S*=\S+ )?(python examples/.*)$",
            r"```shell\n\1\2\n```",
            text,
            flags=re.MULTILINE,
        )
        parts.append(f"(example-{name})=\n## {header.title.rstrip('.')}\n")
        if (ROOT / "docs" / "pictures" / f"{name}.png").exists():
            parts.append(f"![{header.title}](/pictures/{name}.png)")
        parts.append(linked(text))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def pages() -> dict[str, str]:
    """All pages by their path in the folder."""
    made = {f"algorithms/{r.name.lower()}.md": algorithm(r) for r in registry.RECORDS}
    made["algorithms/index.md"] = overview()
    listed = reference()
    made |= {f"reference/{name}.md": text for name, text in listed.items()}
    made["reference/index.md"] = (
        "# Reference\n\nWhat is exported beside [the algorithms](../algorithms/index.md).\n\n"
        "```{toctree}\n\n" + "\n".join(listed) + "\n```\n"
    )
    made["gallery.md"] = gallery()
    return made


def write(folder: Path) -> None:
    """Writes all pages into the folder, and removes what was made there and is no more."""
    made = pages()
    for path in folder.rglob("*.md"):
        if str(path.relative_to(folder)) not in made:
            path.unlink()
    for name, text in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
