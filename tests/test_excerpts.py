"""The beginnings of text samples that are printed on paper."""

from hypothesis import given
from hypothesis import strategies as st

from launch.results import excerpts


def test_a_table_has_a_line_for_each_cell_behind_its_heading(tmp_path):
    path = tmp_path / "a.html"
    path.write_text(
        "<title>no</title><style>p { no }</style><h1>no</h1><p>Written by</p>"
        "<table><tr><th>greedy</th><th>top <i>k</i></th></tr>"
        "<tr><td><pre>to be</pre></td><td>a &lt;b&gt; c</td></tr>"
        "<tr><td>x</td><td>y</td><td>z</td></tr></table>",
        encoding="utf-8",
    )
    expected = ["Written by", "greedy: to be", "top k: a <b> c", "greedy: x", "top k: y", "z"]
    assert excerpts.excerpt(path) == expected


def test_a_plain_text_has_its_first_lines(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\n".join(["one", "", "<b>two</b>", "z" * 500, *"abcdefgh"]), encoding="utf-8")
    lines = excerpts.excerpt(path)
    assert lines[:2] == ["one", "<b>two</b>"] and lines[2] == "z" * excerpts.WIDEST + "…"
    assert len(lines) == excerpts.LINES


@given(st.binary(max_size=300), st.sampled_from([".txt", ".html"]))
def test_no_file_is_too_odd(tmp_path_factory, content, ending):
    path = tmp_path_factory.getbasetemp() / f"odd{ending}"
    path.write_bytes(content)
    lines = excerpts.excerpt(path)
    assert len(lines) <= excerpts.LINES and all(0 < len(line) <= excerpts.WIDEST + 1 for line in lines)
