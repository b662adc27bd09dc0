"""What the pages promise: links lead somewhere, tables and lists are those of the results and of the code."""

import ast
import importlib.util
import json
import re
import tomllib
from html.parser import HTMLParser

import pytest
import yaml
from made_parts import MARKED, PARTS, with_parts
from page_blocks import PAGES, ROOT, blocks_of, name_of

from lwexplain.cli import app
from lwexplain.probes.attribution.methods import METHODS

TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
INTERFACE = json.loads((ROOT / "tests" / "public_interface.json").read_text())
"""What other people's scripts rely on; a test of its own holds it against a real analysis."""

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HERE = re.compile(r"https://github\.com/lwexplain/lwexplain/blob/main/(\S+)")


def prose(page):
    """A page without its code blocks and without code in its sentences."""
    text = re.sub(r"^```.*?^```$", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def anchors_of(page):
    """The anchors of a page's headings, as GitHub and mkdocs both make them."""
    text = re.sub(r"^```.*?^```$", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings} | {
        *re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_file_or_a_section_leads_there(page):
    for link in LINK.findall(prose(page)):
        here = HERE.fullmatch(link)
        if here:
            assert (ROOT / here[1]).exists(), link
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        if anchor and path.suffix == ".md":
            assert anchor in anchors_of(path), link


def test_every_page_of_the_site_is_in_its_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"([\w/]+\.md)$", text, re.MULTILINE)
    assert sorted(listed) == sorted(name_of(page).removeprefix("docs/") for page in PAGES if "docs" in page.parts)


def test_the_site_loads_nothing_from_other_places():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["theme"]["font"] is False
    assert "extra_javascript" not in config
    assert "offline" not in config["plugins"]  # its search from the disk loads a script from elsewhere
    assert "repo_url" not in config  # the theme would ask that host for the number of stars
    assert all("://" not in sheet for sheet in config["extra_css"])


def test_the_readme_is_about_150_lines_long():
    assert len(TEXTS[ROOT / "README.md"].splitlines()) <= 160


def test_every_command_of_the_pages_exists():
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    used = {word for text in TEXTS.values() for word in re.findall(r"`lwexplain (\w+)", text)}
    for text in TEXTS.values():
        shell = "\n".join(block.code for block in blocks_of(text) if block.language == "sh")
        used |= set(re.findall(r"^(?:\S*/)?lwexplain (\w+)", shell, re.MULTILINE))
    assert len(used) > 5
    assert used <= known


def test_every_file_and_make_target_of_the_pages_exists():
    everything = "\n".join(TEXTS.values())
    for name in set(re.findall(r"\b(?:configs|apps|tests|lwexplain)/[\w/]+\.(?:yaml|py|json)\b", everything)):
        assert (ROOT / name).exists(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:`|^)make (\w+)", everything, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_tables_of_results_are_those_of_the_result_files():
    script = importlib.util.spec_from_file_location("readme_tables", ROOT / "tests/benchmarks/readme_tables.py")
    module = importlib.util.module_from_spec(script)
    script.loader.exec_module(module)
    shown = [name for text in TEXTS.values() for name in module.MARKED.findall(text)]
    assert set(shown) == set(module.TABLES)
    for page in module.FILES:
        text = page.read_text(encoding="utf-8")
        assert module.with_tables(text) == text, f"{name_of(page)}: run tests/benchmarks/readme_tables.py"


def test_commands_keys_and_lists_are_those_of_the_code():
    assert {name for text in TEXTS.values() for name in MARKED.findall(text)} == set(PARTS)
    for page, text in TEXTS.items():
        assert with_parts(text) == text, f"{name_of(page)}: run tests/docs/made_parts.py"


def test_the_reference_names_every_public_name():
    tree = ast.parse((ROOT / "lwexplain" / "__init__.py").read_text(encoding="utf-8"))
    homes = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "_HOMES")
    shown = re.findall(r"^::: lwexplain\.(\w+)$", TEXTS[ROOT / "docs/reference/python.md"], re.MULTILINE)
    assert set(shown) == set(ast.literal_eval(homes))


def test_the_example_of_a_probe_is_short():
    page = TEXTS[ROOT / "docs" / "extending.md"]
    block = next(block.code for block in blocks_of(page) if "class Sparsity" in block.code)
    assert len([line for line in block.split("table =")[0].splitlines() if line.strip()]) <= 15


def test_pictures_of_the_readme_are_there_and_small():
    pictures = []

    class Pictures(HTMLParser):
        def handle_starttag(self, tag, attrs):
            pictures.extend(value for name, value in attrs if name in ("src", "srcset"))

    Pictures().feed(TEXTS[ROOT / "README.md"])
    assert len(pictures) == 2
    assert all((ROOT / name).stat().st_size < 200_000 for name in pictures)


def test_the_citation_has_what_the_format_asks_for_and_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert str(citation["version"]) == project["version"]
    assert citation["repository-code"] == project["urls"]["Homepage"]
    (thesis,) = citation["references"]
    assert (thesis["type"], thesis["authors"], thesis["year"]) == (
        "thesis",
        [{"family-names": "Xu", "given-names": "Lei"}],
        2023,
    )


def test_the_page_of_indices_has_every_metric_of_an_analysis_and_no_other():
    page = TEXTS[ROOT / "docs" / "indices.md"]
    named = set(re.findall(r"`(\w+)`", page))
    headings = {part for line in re.findall(r"^### .+$", page, re.MULTILINE) for part in line.split("`")[1::2]}
    measured = {general_name(metric) for metric in INTERFACE["metrics"]}
    assert len(measured) > 50
    assert measured <= named
    assert headings <= measured


def general_name(metric):
    """The name of a metric as the page has it: of attributions once for all methods."""
    method = next((method for method in METHODS if metric.startswith(f"{method}_")), None)
    return metric if method is None else f"METHOD{metric.removeprefix(method)}"


def test_the_page_of_the_run_directory_has_every_column_and_attribute_of_the_table():
    page = TEXTS[ROOT / "docs" / "run_directory.md"]
    named = set(re.findall(r"`(\w+)`", page))
    assert set(INTERFACE["parquet"]["analysis/metrics.parquet"]) <= named
    assert set(INTERFACE["attributes"]) <= named
