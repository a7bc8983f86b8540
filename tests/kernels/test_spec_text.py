"""The grammar of specs: any path can be a value, and comes back as it was."""

import pytest

from membound.kernels.work import SpecError, parse
from membound.results.wording import short
from membound.spec_text import identity, pieces, quoted, settings, split_specs, unquoted

DRIVE = "C" + ":\\"
PATHS = (
    "out/lr=0.1,bs=2",
    "a,b",
    ",",
    'a"b',
    '"a"',
    '"a,b',
    "'a'",
    "it's, well",
    " a ",
    "a b",
    f"{DRIVE}models\\x,y",
    "\\\\server\\share\\",
    "modèle, größe=模型",
    "a,linear:n=1,k=2",
    "==",
    "a\nb,c",
    '""',
    "x" * 5000 + ",",
)


@pytest.mark.parametrize("path", PATHS)
def test_any_path_comes_back(path):
    assert unquoted(quoted(path)) == path
    spec = f"step:model={quoted(path)},batch=2"
    assert settings(spec) == {"model": path, "batch": "2"}
    assert pieces(spec.partition(":")[2]) == [f"model={quoted(path)}", "batch=2"]
    assert split_specs(f"linear:n=4,k=4,{spec},mla:context=8") == ["linear:n=4,k=4", spec, "mla:context=8"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a", "a"),
        ('"a,b"', "a,b"),
        ("'a,b'", "a,b"),
        ("'it''s'", "it's"),
        ('"say ""x"""', 'say "x"'),
        ("a=b", "a=b"),
    ],
)
def test_quotes_of_either_kind(text, value):
    assert settings(f"step:model={text},batch=1") == {"model": value, "batch": "1"}


@pytest.mark.parametrize("text", ['"a', "'a", '"a"b', '"a""', "'a''"])
def test_a_quote_that_is_not_closed_is_refused(text):
    with pytest.raises(ValueError, match="begins with a quote that is not closed at its end"):
        unquoted(text)
    with pytest.raises(SpecError, match=r"^step: model=.* begins with a quote that is not closed at its end"):
        parse(f"step:model={text}")
    assert settings(f"step:model={text}") == {"model": text}  # a stranger's row is shown as it is


@pytest.mark.parametrize(
    "name", ["lr=0.1,bs=2", 'a "b"', f"{DRIVE}x,y", "größe, 模型", "linear:n=1,k=2", "it's"]
)
def test_a_folder_of_any_name_is_a_model(tmp_path, monkeypatch, name):
    from checkpoints import folder_of

    folder_of(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    work = parse(f"step:model={quoted(name)},context=16")
    assert work.model == name
    assert parse(work.spec) == work
    assert split_specs(work.spec) == [work.spec]
    assert settings(work.spec)["model"] == name


def test_a_comma_without_quotes_is_refused_with_the_quotes_that_it_needs(tmp_path):
    with pytest.raises(SpecError, match=r'unknown key .bs.; .*goes in quotes: model="out/lr=0.1,bs=2"$'):
        parse("step:model=out/lr=0.1,bs=2")
    with pytest.raises(
        SpecError, match=r'.b c. is not key=value; a folder .* goes in quotes: model="a,b c"$'
    ):
        parse("step:model=a,b c")
    with pytest.raises(SpecError, match=r"unknown key 'bs'.*cache, distinct, queries, content$"):
        parse("step:model=tiny,bs=2")


def test_the_same_folder_at_two_places_is_one_work():
    here, there = (f"step:model={path},batch=1,content=0123456789ab" for path in ("a", '"b,c"'))
    assert identity(here) == identity(there) == "step:batch=1,content=0123456789ab"
    assert identity("step:model=tiny,batch=1") == "step:model=tiny,batch=1"
    assert identity(here) != identity(here.replace("0123", "9999"))


def test_a_short_spec_keeps_a_comma_and_leaves_the_content_out():
    assert short('step:model="a,b",batch=1,act=float,content=0123456789ab') == 'step "a,b" batch=1'
