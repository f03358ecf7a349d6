"""The web panel's forms and HTML, without any server."""

import re
import sys

import harp
import pytest
from harp.protocol.listed import ListedProcedure, Parameter

from conftest import TOP
from wsgi_client import Page

sys.path.append(str(TOP / "examples" / "webpanel"))

from webpanel import forms, inputs, markup, settings, submit  # noqa: E402
from webpanel.forms import Typed  # noqa: E402
from webpanel.markup import tag  # noqa: E402


def field(default=None, annotation=None, kind="positional_or_keyword", name="x"):
    parameter = Parameter(name, kind, default, annotation)
    (made,) = forms.fields_of(ListedProcedure("p", None, [parameter], *[None] * 3))
    return made


@pytest.mark.parametrize(
    "default, annotation, takes",
    [
        (None, "int", forms.INTEGER),
        ("5", "float", forms.NUMBER),
        (None, "str", forms.TEXT),
        ("None", "str | None", forms.TEXT),
        ("None", "typing.Optional[int]", forms.INTEGER),
        (None, "'bool'", forms.BOOLEAN),
        (None, "list[str]", forms.JSON),
        (None, "collections.abc.Mapping[str, int]", forms.JSON),
        (None, "typing.Literal['a', 1]", forms.CHOICE),
        ("False", None, forms.BOOLEAN),
        ("10", None, forms.NUMBER),
        ("1.5", None, forms.NUMBER),
        ("'text'", None, forms.TEXT),
        ("(1, 2)", None, forms.JSON),
        ("None", None, forms.ANY),
        (None, None, forms.ANY),
        ("<object at 0x7f>", None, forms.ANY),
        (None, "app.Something", forms.ANY),
    ],
)
def test_field_takes_what_annotation_or_default_tell(default, annotation, takes):
    assert field(default, annotation).takes == takes


def test_parameters_with_stars_take_lines_and_an_object():
    assert field(kind="var_positional").takes == forms.LINES
    assert field(kind="var_keyword").takes == forms.OBJECT


@pytest.mark.parametrize("name", ["password", "new_passwd", "api_key", "authToken"])
def test_what_is_called_a_secret_is_one_and_never_a_number(name):
    made = field(name=name)
    assert made.is_secret
    typed = {name: Typed("12345", forms.ANY, True)}
    _, named, faults = forms.arguments([made], typed)
    assert (named, faults) == ({name: harp.Secret("12345")}, {})


INT = field(annotation="int", name="i")
OPTIONAL = field("None", "str | None", name="o")
GREETING = field("'hi'", "str", name="g")
ANY = field(name="a")
FLAG = field("True", name="f")
CHOICE = field(None, "Literal['red', 2]", name="c")
MORE = field(kind="var_positional", name="m")
NAMED = field(kind="var_keyword", name="n")
FIRST = field(kind="positional_only", name="p")
ONLY = field("1", kind="keyword_only", name="k")


@pytest.mark.parametrize(
    "fields, typed, expected",
    [
        ([INT], {"i": "7"}, {"i": 7}),
        ([INT], {"i": " -3 "}, {"i": -3}),
        ([ANY], {"a": "7"}, {"a": 7}),
        ([ANY], {"a": "null"}, {"a": None}),
        ([ANY], {"a": "007"}, {"a": "007"}),
        ([ANY], {"a": " blanks "}, {"a": " blanks "}),
        ([ANY], {"a": '{"b": [1]}'}, {"a": {"b": [1]}}),
        ([ANY], {"a": Typed("7", forms.TEXT)}, {"a": "7"}),
        ([ANY], {"a": Typed("", forms.TEXT)}, {"a": ""}),
        ([ANY], {"a": Typed('"7"', forms.JSON)}, {"a": "7"}),
        ([OPTIONAL], {"o": ""}, {}),
        ([OPTIONAL], {"o": "x"}, {"o": "x"}),
        ([GREETING], {"g": "hi"}, {}),
        ([GREETING], {"g": ""}, {"g": ""}),
        ([FLAG], {"f": "true"}, {}),
        ([FLAG], {"f": "false"}, {"f": False}),
        ([CHOICE], {"c": '"red"'}, {"c": "red"}),
        ([CHOICE], {"c": "2"}, {"c": 2}),
        ([INT, NAMED], {"i": "1", "n": '{"z": 2}'}, {"i": 1, "z": 2}),
        ([MORE], {"m": "/a\n7\n\n"}, ["/a", 7]),
        ([MORE], {"m": Typed("7\n8", forms.TEXT)}, ["7", "8"]),
        ([MORE], {"m": Typed('["a\\nb"]', forms.JSON)}, ["a\nb"]),
        ([MORE], {"m": ""}, {}),
        ([INT, MORE], {"i": "1", "m": "2"}, [1, 2]),
        ([GREETING, MORE], {"g": "hi", "m": "2"}, ["hi", 2]),
        ([FIRST, INT], {"p": "x", "i": "1"}, ["x", 1]),
        ([FIRST, ONLY], {"p": "x", "k": "1"}, ["x"]),
    ],
)
def test_arguments_are_what_was_typed(fields, typed, expected):
    entries = {
        name: text if isinstance(text, Typed) else Typed(text)
        for name, text in typed.items()
    }
    positional, named, faults = forms.arguments(fields, entries)
    assert faults == {}
    assert (list(positional) or named) == expected


@pytest.mark.parametrize(
    "fields, typed, at",
    [
        ([INT], {"i": ""}, "i"),
        ([INT], {"i": "1.5"}, "i"),
        ([INT], {"i": "true"}, "i"),
        ([field(annotation="float", name="z")], {"z": "NaN"}, "z"),
        ([ANY], {"a": ""}, "a"),
        ([ANY], {"a": Typed("{", forms.JSON)}, "a"),
        ([field(annotation="str", name="s")], {"s": ""}, "s"),
        ([FLAG], {"f": "1"}, "f"),
        ([CHOICE], {"c": "true"}, "c"),
        ([CHOICE], {"c": '"blue"'}, "c"),
        ([NAMED], {"n": "[]"}, "n"),
        ([INT, NAMED], {"i": "1", "n": '{"i": 2}'}, "n"),
        ([OPTIONAL, MORE], {"m": "2"}, "o"),
        ([FIRST, ONLY], {"p": "x", "k": "2"}, "k"),
        ([MORE], {"m": Typed("7", forms.JSON)}, "m"),
        ([ANY], {"a": Typed("[" * 100_000, forms.JSON)}, "a"),
        ([ANY], {"a": "1e999"}, "a"),
        ([field(annotation="float", name="z")], {"z": "1e999"}, "z"),
    ],
)
def test_what_does_not_fit_is_told_at_its_field(fields, typed, at):
    entries = {
        name: text if isinstance(text, Typed) else Typed(text)
        for name, text in typed.items()
    }
    _, _, faults = forms.arguments(fields, entries)
    assert list(faults) == [at]


def test_default_is_what_json_makes_of_it():
    table = field("{1: 2, 'x': (3,)}")
    text = forms.text_of(table, table.default).text
    assert forms.arguments([table], {table.name: Typed(text)}) == ((), {}, {})
    _, named, _ = forms.arguments([table], {table.name: Typed('{"x": 3}')})
    assert named == {table.name: {"x": 3}}


def test_secret_values_are_marked_one_by_one():
    typed = {"m": Typed("a\nb", forms.ANY, True)}
    positional, _, _ = forms.arguments([MORE], typed)
    assert positional == (harp.Secret("a"), harp.Secret("b"))
    typed = {"n": Typed('{"x": 1}', forms.ANY, True)}
    _, named, _ = forms.arguments([NAMED], typed)
    assert named == {"x": harp.Secret(1)}


@pytest.mark.parametrize(
    "value",
    ["x", "7", " x ", "", "a\nb", 7, 1.5, None, True, ["a"], {"b": "c"}]
    + ["1e999", "[" * 100_000, "a\u2028b", "\x1cb", "a\rb", "a\0b", "\udcff"],
)
def test_what_is_shown_for_a_value_is_read_as_that_value(value):
    typed = {"a": forms.text_of(ANY, value)}
    # Browsers change these, or can't get them.
    assert not re.search("[\0\r\ud800-\udfff]", typed["a"].text)
    assert forms.arguments([ANY], typed) == ((), {"a": value}, {})
    typed = {"m": forms.text_of(MORE, [value, "last"])}
    assert forms.arguments([MORE], typed) == ((value, "last"), {}, {})


@pytest.mark.parametrize("text", ["plain", "two\nlines", " x ", "tab\t\x1b", "é'\""])
def test_form_that_is_sent_as_it_is_changes_no_text(text):
    made = field(repr(text), "str")
    entered = submit.Entered("", {"x": forms.text_of(made, text)}, [], {}, {})
    page = Page(str(inputs.argument(made, entered)))
    controls = page.all("input", name="arg.x") + page.all("textarea", name="arg.x")
    sent = controls[0].attributes.get("value") or controls[0].text[1:]
    assert forms.arguments([made], {"x": Typed(sent)}) == ((), {}, {})


# --- markup --------------------------------------------------------------------------


def test_text_is_escaped_wherever_it_stands():
    evil = "<script>\"'&"
    made = str(tag.p(evil, [evil], title=evil))
    assert made.count("&lt;script&gt;&quot;&#x27;&amp;") == 3
    assert made.count("<") == made.count(">") == 2


def test_controls_are_made_visible_and_texts_keep_their_direction():
    assert str(tag.p("a\x00\x1b[1m\u202eb\n")) == "<p>a\u2400\u241b[1m\ufffdb\n</p>"


def test_text_that_is_no_unicode_can_be_shown():
    assert b"<p>a?</p>" in markup.document(tag.p("a\udcff"))


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "//example.net", "/\\x", "http://x", "data:,", ""]
)
def test_link_that_leads_elsewhere_can_not_be_made(link):
    with pytest.raises(ValueError, match="leads out"):
        tag.a("x", href=link)


# --- settings ------------------------------------------------------------------------


def test_settings_file_of_the_example_has_every_key_with_its_default(tmp_path):
    text = (TOP / "examples" / "webpanel" / "panel.toml").read_text()
    path = tmp_path / "panel.toml"
    path.write_text(text)
    plain = settings.load(path)
    assert plain.users_file == str(tmp_path / "panel.users")
    path.write_text(re.sub("^#(?=[a-z_]+ = )", "", text, flags=re.M))
    told = vars(settings.load(path))
    assert len(re.findall("^#?[a-z_]+ = ", text, re.M)) == len(told)
    # What is false or unknown without it is shown as it may be.
    shown = {"dispatcher", "secure_cookies", "events"}
    assert {key for key in told if told[key] != getattr(plain, key)} == shown


def test_all_faults_of_the_settings_are_told_at_once(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text(
        'title = 5\nevents = "yes"\nsession_hours = 0\nother = 1\n'
        "login_delay = inf\n"
    )
    with pytest.raises(settings.SettingsError) as caught:
        settings.load(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 7 and all(line.startswith(f"{path}: ") for line in lines)


def test_settings_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv(settings.VARIABLE, str(tmp_path / "none.toml"))
    with pytest.raises(settings.SettingsError, match="none.toml: No such file"):
        settings.find()


def test_secret_that_is_none_is_refused(tmp_path):
    path = tmp_path / "secret"
    found = settings.Settings("users", str(path))
    with pytest.raises(settings.SettingsError, match="secret: No such file"):
        found.secret()
    path.write_text("short\n")
    path.chmod(0o600)
    with pytest.raises(settings.SettingsError, match="openssl rand"):
        found.secret()
    path.write_text("x" * 32)
    assert found.secret() == b"x" * 32
    path.chmod(0o644)
    with pytest.raises(settings.SettingsError, match="chmod 640"):
        found.secret()
