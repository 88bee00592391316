from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.data import load
from securefl.errors import UserError

PLAIN = """age,sex,dose,ill,hospital
50,f,1.5,no,B
61,m,2.5,yes,A
47,m,0.5,yes,B
33,f,1.0,no,A
"""


@pytest.fixture
def table(tmp_path):
    """Writes a table and loads it."""

    def put(text, *, label="ill", site="hospital", ranges=None, **more):
        path = tmp_path / "mine.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(str(path), label=label, site=site, ranges=ranges, **more)

    return put


@pytest.fixture
def refused(table):
    def put(text, **more):
        with pytest.raises(UserError) as caught:
            table(text, **more)
        line = str(caught.value)
        assert "\n" not in line
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        return line

    return put


def test_a_plain_table(table):
    dataset = table(PLAIN)
    assert dataset.name == "mine.csv"
    assert dataset.features == ("age", "dose", "sex=m")
    assert [site.name for site in dataset.sites] == ["A", "B"]
    assert dataset.sites[0].x.tolist() == [[61, 2.5, 1], [33, 1, 0]]
    assert dataset.sites[0].y.tolist() == [1, 0]
    assert dataset.sites[1].x.tolist() == [[50, 1.5, 0], [47, 0.5, 1]]
    assert dataset.sites[1].y.tolist() == [0, 1]
    assert (dataset.sites[0].x.dtype, dataset.sites[0].y.dtype) == (np.float64, np.int64)
    assert dataset.ranges is None
    assert dataset.fixed_sites
    assert dataset.notes == (
        "label ill: 0 is no (2 rows)",
        "label ill: 1 is yes (2 rows)",
        "columns of numbers: age, dose",
        "columns of text, one 0/1 feature for every value but the first: sex (2 values)",
        "missing values: none",
        "constant columns, not used: none",
    )


cell = st.sampled_from(["1", "-2.5", "3e2", "0", "7", "8.25", "12", "5", "", "NA"])
word = st.sampled_from(["red", "green", "blue", "dark red", "grey", ""])
line = st.tuples(cell, word, cell, st.sampled_from(["0", "1"]), st.sampled_from(["x", "y"]))


@settings(max_examples=60)
@given(st.lists(line, min_size=2, max_size=6) | st.lists(line, min_size=12, max_size=30))
def test_pandas_reads_the_same_numbers(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    frame = pd.DataFrame(lines, columns=["a", "colour", "b", "y", "where"])
    frame.to_csv(path, index=False)
    oracle = pd.read_csv(path, skip_blank_lines=False)
    # Columns that hold one value or none cost no rows; then incomplete rows go; then what has become constant.
    features = [name for name in ("a", "b", "colour") if oracle[name].nunique() > 1]
    oracle = oracle.dropna(subset=features)
    features = [name for name in features if oracle[name].nunique() > 1]
    good = features and oracle["y"].nunique() == 2 and set(oracle["where"]) == set(frame["where"])
    if not good or frame["where"].nunique() < 2:
        with pytest.raises(UserError):
            load(str(path), label="y", site="where")
        return
    encoded = pd.get_dummies(oracle[features], columns=[f for f in features if f == "colour"], drop_first=True, prefix_sep="=")
    dataset = load(str(path), label="y", site="where")
    assert dataset.features == tuple(encoded.columns)
    assert [site.name for site in dataset.sites] == sorted(set(frame["where"]))
    for site in dataset.sites:
        own = oracle["where"] == site.name
        assert np.array_equal(site.x, encoded[own].to_numpy(float))
        assert np.array_equal(site.y, oracle["y"][own].to_numpy(int))


@pytest.mark.parametrize(
    ("low", "high"),
    [("0", "1"), ("false", "true"), ("no", "yes"), ("1", "2"), ("9", "10"), ("-1.5", "0.0"), ("benign", "malignant"), ("A", "a")],
)
def test_the_larger_of_two_label_values_is_one(table, low, high):
    dataset = table(f"a,ill,hospital\n1,{high},A\n2,{low},B\n3,{low},A\n")
    assert [site.y.tolist() for site in dataset.sites] == [[1, 0], [0]]
    assert dataset.notes[0].startswith("label ill: 0 is ")
    assert dataset.notes[0].endswith(" (2 rows)")
    assert dataset.notes[1].endswith(" (1 row)")


def test_yes_and_true_are_read_in_any_case_and_numbers_by_value(table):
    for values in (["Yes", "NO", "yes", "no"], ["TRUE", "False", "true", "FALSE"], ["1", "0.0", "1.0", "0"]):
        rows = "".join(f"{i},{value},{site}\n" for i, (value, site) in enumerate(zip(values, "ABAB", strict=True)))
        assert [site.y.tolist() for site in table("a,ill,hospital\n" + rows).sites] == [[1, 1], [0, 0]]


def test_a_name_that_could_be_two_stands_in_quotes(table):
    text = '"age, years",say: ill,"Zürich, ""Nord"""\n1,0,"B, C"\n2,1,A\n,1,"B, C"\n'
    dataset = table(text, label="say: ill", site='Zürich, "Nord"')
    assert "columns of numbers: 'age, years'" in dataset.notes
    assert "missing values: 'age, years' 1" in dataset.notes
    assert "rows with missing values, left out: 'B, C' 1 of 2" in dataset.notes
    assert dataset.notes[0] == "label 'say: ill': 0 is 0 (1 row)"


def test_a_site_with_one_class_is_normal(table):
    assert [site.y.tolist() for site in table("a,ill,hospital\n1,0,A\n2,0,A\n3,1,B\n").sites] == [[0, 0], [1]]


def test_sites_that_are_numbers_come_in_their_order_and_na_is_a_name(table):
    rows = "".join(f"{i},{i % 2},{site}\n" for i, site in enumerate(["10", "9", "2", "10"]))
    assert [site.name for site in table("a,ill,hospital\n" + rows).sites] == ["2", "9", "10"]
    assert [site.name for site in table("a,ill,hospital\n1,0,NA\n2,1,EU\n").sites] == ["EU", "NA"]


def test_missing_values_are_counted_and_cost_the_row(table):
    dataset = table("a,b,ill,hospital\n1,5,0,A\n,6,1,A\n3,NA,1,B\n4,8,0,B\n5,9,,B\n6,2,1,B\n")
    assert [site.x.tolist() for site in dataset.sites] == [[[1, 5]], [[4, 8], [6, 2]]]
    assert "missing values: ill 1, a 1, b 1" in dataset.notes
    assert "rows with missing values, left out: A 1 of 2, B 2 of 4" in dataset.notes


def test_a_public_range_stands_in_for_a_missing_number(table):
    text = "a,b,ill,hospital\n1,5,0,A\n,6,1,A\n3,7,1,B\n40,8,0,B\n"
    dataset = table(text, ranges={"a": (0.0, 30.0)})
    assert dataset.sites[0].x.tolist() == [[1, 5], [15, 6]]
    assert dataset.ranges is None
    assert "missing values: a 1" in dataset.notes
    assert "missing numbers replaced by the middle of the public range: a 15" in dataset.notes
    assert dataset.warnings == ("column a: 1 of 3 values lie outside its public range 0 to 30 and are cut to it",)
    both = table(text, ranges={"b": (0, 10), "a": (0, 30)})
    assert both.ranges.tolist() == [[0, 30], [0, 10]]
    assert both.ranges.dtype == np.float64


def test_encoded_text_has_its_range_by_itself(table):
    dataset = table(PLAIN, ranges={"age": (0, 100), "dose": (0, 5)})
    assert dataset.ranges.tolist() == [[0, 100], [0, 5], [0, 1]]


def test_constant_columns_are_left_out_and_cost_no_rows(table):
    dataset = table("a,unit,k,ill,hospital\n1,mg,7,0,A\n2,,7,1,A\n3,mg,,1,B\n")
    assert dataset.features == ("a",)
    assert sum(site.y.size for site in dataset.sites) == 3
    assert "constant columns, not used: unit (always mg), k (always 7)" in dataset.notes


def test_a_column_that_becomes_constant_with_the_incomplete_rows_is_left_out(table):
    dataset = table("a,b,ill,hospital\n1,1,0,A\n,2,1,A\n3,1,1,B\n")
    assert dataset.features == ("a",)
    assert "constant columns, not used: b (always 1)" in dataset.notes


def test_text_with_many_values_empty_and_nameless_columns_are_left_out_and_said(table):
    rows = "".join(f"{i},p{i},,{i % 20},t{i % 20},{i % 2},{'AB'[i % 2]}\n" for i in range(42))
    dataset = table(",patient,void,n,t,ill,hospital\n" + rows)
    assert dataset.features == ("n", *(f"t={value}" for value in sorted(f"t{i}" for i in range(20))[1:]))
    assert "columns without a name, not used: 1" in dataset.notes
    assert "columns not used: patient (text with 42 distinct values, at most 20), void (no values)" in dataset.notes


def test_a_stray_word_in_a_column_of_numbers_is_named(table):
    warning = "'12O' is no number (line 6); mend the cell, blank it, or leave the column out (--drop)"
    few = "".join(f"{i},{'12O' if i == 4 else i % 9},{i % 2},{'AB'[i % 2]}\n" for i in range(30))
    many = "".join(f"{i},{'12O' if i == 4 else i},{i % 2},{'AB'[i % 2]}\n" for i in range(30))
    assert table("a,b,ill,hospital\n" + few).warnings == (f"column b is taken as text, not as numbers: {warning}",)
    assert table("a,b,ill,hospital\n" + many).warnings == (f"column b is not used: {warning}",)
    assert table("a,b,ill,hospital\n" + many, drop=["b"]).warnings == ()


@pytest.mark.parametrize("cell", ['"65,{}"', "65.{}%", '"1,2{}"', "-4{} kg"])
def test_numbers_in_another_spelling_are_told(table, cell):
    rows = "".join(f"{i},{cell.format(i)},{i % 2},{'AB'[i % 2]}\n" for i in range(30))
    (warning,) = table("a,b,ill,hospital\n" + rows).warnings
    assert warning.startswith(
        f"column b is not used: '{cell.format(0).strip(chr(34))}' is no number (lines 2, 3, 4, 5, 6 and 25 more)"
    )


def test_codes_and_words_are_no_numbers_in_another_spelling(table):
    rows = "".join(f"{i},P{i},{i % 2},{'AB'[i % 2]}\n" for i in range(30))
    assert table("a,b,ill,hospital\n" + rows).warnings == ()


def test_none_is_missing_among_numbers_and_a_value_among_words(table):
    dataset = table("a,drug,ill,hospital\n1,none,0,A\nNone,some,1,A\n3,some,1,B\n2,none,0,A\n")
    assert dataset.features == ("a", "drug=some")
    assert [site.x.tolist() for site in dataset.sites] == [[[1, 0], [2, 0]], [[3, 1]]]


def test_a_byte_order_mark_quotes_and_spaces_are_no_part_of_a_name(table):
    dataset = table('\ufeffage, "ill" ,hospital\n1,0, A\n2,1,"B"\n4,1,A \n'.replace(' "ill" ', '"ill "'))
    assert dataset.features == ("age",)
    assert [site.name for site in dataset.sites] == ["A", "B"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "is empty: a header line and rows are needed"),
        ("a,ill,hospital\n", "has a header but no rows"),
        (b"a,ill,hospital\n\xff\xfe,1,A\n", "is not UTF-8 text"),
        ("a,ill,hospital\n1,0,A\n2,1,B,extra\n", "has 4 fields in line 3 and 3 in its header"),
        ("a,ill,hospital\n1,0,A,x\n2,1,B,x\n", "has 4 fields in line 2 and 3 in its header"),
        ("a,ill,hospital\n1,0,A\n\n2,1\n", "has 2 fields in line 4 and 3 in its header"),
        ('a,ill,hospital\n1,0,"A\n', "is not a comma-separated table: unexpected end of data, in the row that begins in line 2"),
        ("a,a,ill,hospital\n1,1,0,A\n2,2,1,B\n", "more than one column named 'a'"),
        ("a,a ,ill,hospital\n1,1,0,A\n2,2,1,B\n", "more than one column named 'a'"),
        ("a,y,hospital\n1,0,A\n2,1,B\n", "the label column 'ill' is not in"),
        ("a,ill,clinic\n1,0,A\n2,1,B\n", "the site column 'hospital' is not in"),
        ("a\till\thospital\n1\t0\tA\n2\t1\tB\n", r"separates its columns by '\t': save it with commas"),
        ("a;ill;hospital\n1;0;A\n2;1;B\n", "separates its columns by ';': save it with commas"),
        ("a,ill,hospital\n1,0,A\n2,1,B\n3,2,B\n", "the label column 'ill' has 3 distinct values: two are needed"),
        ("a,ill,hospital\n1,x,A\n2,y,B\n3,z,B\n", "the label column 'ill' has 3 distinct values: two are needed"),
        ("a,ill,hospital\n1,0,A\n2,0,B\n", "the label column 'ill' is 0 over all sites"),
        ("a,ill,hospital\n1,yes,A\n2,Yes,B\n", "the label column 'ill' is yes over all sites"),
        ("a,ill,hospital\n1,,A\n2,,B\n", "the label column 'ill' has 0 distinct values"),
        ("a,ill,hospital\n1,0,A\n,1,A\n2,0,B\n", "one value over all sites once incomplete rows are left out"),
        ("a,ill,hospital\n1,0,A\n2,1,A\n", "names 1 site: at least 2"),
        ("a,ill,hospital\n1,0,A\n2,1,\n3,1,B\n4,0,  \n", "the site column 'hospital' is blank in lines 3, 5"),
        ("a,ill,hospital\n1,0,A\n2,1,A\n,1,B\n", "site 'B' is empty once rows with missing values are left out; missing in: a"),
        ("a,ill,hospital\n1,0,A\n2,1,A\n3,,B\n", "missing in: the label"),
        ("a,ill,hospital\n1,0,A\ninf,1,B\n", "the column 'a' holds an infinite number in line 3"),
        ("a,ill,hospital\n1,0,A\n2,1,B\n-1e999,1,B\n", "the column 'a' holds an infinite number in line 4"),
        ("a,ill,hospital\n1,0,A\n2,-inf,B\n", "the column 'ill' holds an infinite number in line 3"),
        ("ill,hospital\n0,A\n1,B\n", "has no usable feature column: only label and site"),
        ("a,ill,hospital\n5,0,A\n5,1,B\n", "has no usable feature column: a (always 5)"),
        ("c,c=y,ill,hospital\nx,1,0,A\ny,2,1,B\n", "a column named like an encoded value of another: c=y"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(refused, text, says):
    assert says in refused(text)


@pytest.mark.parametrize(
    ("ranges", "says"),
    [
        ({"weight": (0, 1)}, "a range is given for 'weight', no feature column of"),
        ({"ill": (0, 1)}, "a range is given for 'ill', no feature column of"),
        ({"sex": (0, 1)}, "a range is given for 'sex', which holds text"),
        ({"age": (3, 3)}, "the range of 'age' is 3 to 3"),
        ({"age": (9, 3)}, "the range of 'age' is 9 to 3"),
        ({"age": (0, float("inf"))}, "the range of 'age' is 0 to inf"),
        ({"age": (float("nan"), 1)}, "the range of 'age' is nan to 1"),
    ],
)
def test_a_range_that_cannot_be_used_is_refused(refused, ranges, says):
    assert says in refused(PLAIN, ranges=ranges)


@pytest.mark.parametrize("roles", [{"label": None}, {"site": None}, {"label": None, "site": None}])
def test_a_table_needs_label_and_site_and_lists_its_columns(refused, roles):
    line = refused(PLAIN, **roles)
    assert "needs a label column and a site column" in line
    assert "age, sex, dose, ill, hospital" in line


def test_label_and_site_are_two_columns(refused):
    assert "named as label and as site" in refused(PLAIN, site="ill")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name, says in {"none.csv": "there is no such file", "folder.csv": "is a folder: the path of a CSV file"}.items():
        with pytest.raises(UserError, match=says):
            load(str(tmp_path / name), label="ill", site="hospital")


def test_columns_are_left_out_as_asked(table, refused):
    dataset = table(PLAIN, drop=("sex", "dose"))
    assert dataset.features == ("age",)
    assert "columns left out as asked: sex, dose" in dataset.notes
    for column in ("ill", "hospital", "weight"):
        assert f"the column {column!r} to leave out is no feature column" in refused(PLAIN, drop=(column,))
    assert "a range is given for 'age', no feature column" in refused(PLAIN, drop=("age",), ranges={"age": (0, 120)})


def test_a_line_break_in_quotes_is_a_space_and_lines_are_those_of_the_file(table, refused):
    text = 'a,note,ill,hospital\n1,"two\nlines",0,A\n2,one,1,A\n3,"two\r\n lines",1,B\n{},one,0,B\n'
    assert table(text.format(4)).features == ("a", "note=two lines")
    assert "an infinite number in line 7" in refused(text.format("inf"))


def test_sites_that_differ_by_case_alone_are_told(table):
    dataset = table("a,ill,hospital\n1,0,A\n2,1,a \n3,1, A\n4,0,B\n")
    assert [site.name for site in dataset.sites] == ["A", "B", "a"]
    assert dataset.warnings == ("the names of sites A and a differ by case alone, and count as 2 sites",)


@pytest.mark.parametrize("text", ["a,label,site\n1,0,A\n2,1,B\x1b[2J\n", "a\x07,label,site\n1,0,A\n2,1,B\n"])
def test_control_characters_are_refused_with_their_row(tmp_path: Path, text: str) -> None:
    """A terminal would act on them."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match="control character in line"):
        load(str(path), label="label", site="site")


LEVELS = "age,sex,ward,ill,hospital\n50,f,a,no,B\n61,m,b,yes,A\n47,m,,yes,B\n33,f,a,no,A\n70,f,z,yes,A\n"


def test_named_levels_are_features_whatever_the_rows_hold_and_other_takes_the_rest(table):
    named = {"sex": ["m", "f", "x"], "ward": ["a", "other", "b"]}
    data = table(LEVELS, levels=named, ranges={"age": (0, 90)}, private=True)
    assert data.features == ("age", "sex=f", "sex=x", "ward=other", "ward=b")
    assert data.sites[0].x.tolist() == [[61, 0, 0, 0, 1], [33, 1, 0, 0, 0], [70, 1, 0, 1, 0]]
    assert data.ranges.tolist() == [[0, 90], *[[0, 1]] * 4]
    assert "sex (3 values), ward (3 values)" in "; ".join(data.notes)
    assert [coding.other for coding in data.codings] == [False, False, True]


def test_a_value_that_is_no_level_is_refused_by_line_and_not_by_name(refused):
    line = refused(LEVELS, levels={"ward": ["a", "b"]})
    assert "'ward' has a value that is none of its public levels (a, b) in line 6" in line
    assert "z" not in line.replace("public", "")


def test_text_without_levels_is_refused_where_no_row_may_decide_a_feature(table, refused):
    line = refused(LEVELS, levels={"sex": ["f", "m"]}, private=True)
    for word in ("text in ward:", "--levels COLUMN=A,B,other", "--drop COLUMN"):
        assert word in line
    assert "sex" not in line
    stray = refused(LEVELS.replace("61,", "61 years,"), levels={"sex": ["f", "m"]}, drop=["ward"], private=True)
    assert "age: '61 years' is no number" in stray
    assert "text in" in refused(LEVELS.replace(",b,", ",a,").replace(",z,", ",a,"), drop=["sex"], private=True)  # though constant
    assert table(LEVELS, levels={"sex": ["f", "m"]}, drop=["ward"], private=True).features == ("age", "sex=m")


@pytest.mark.parametrize("private", [True, False])
def test_a_column_with_a_range_that_happens_to_be_constant_is_a_feature_where_no_row_may_decide_it(table, private):
    text = PLAIN.replace("2.5", "1.5").replace("0.5", "1.5").replace("1.0", "1.5")
    data = table(text, ranges={"dose": (0, 9)}, levels={"sex": ["f", "m"]}, private=private)
    assert ("dose" in data.features) == private


def test_levels_go_with_a_column_of_text_of_a_table(refused):
    assert "levels are given for 'hospital', no feature column" in refused(PLAIN, levels={"hospital": ["A", "B"]})
    assert "a range is given for 'sex', which holds text" in refused(PLAIN, levels={"sex": ["f", "m"]}, ranges={"sex": (0, 1)})
    with pytest.raises(UserError, match="levels is given, but goes with a .csv file only"):
        load("breast-cancer", levels={"sex": ["f", "m"]})


def test_numbers_may_be_levels(table):
    data = table(PLAIN.replace("0.5", "2.5"), levels={"dose": ["1.0", "1.5", "2.5"]})
    assert data.features == ("age", "sex=m", "dose=1.5", "dose=2.5")


def of_outcome(copy, rows=60):
    """A table with a column that is made of the label."""
    labels = [int(n % 4 == 0) for n in range(rows)]
    lines = [f"{n % 9},{copy(n, y)},{y},{'AB'[n % 2]}" for n, y in enumerate(labels)]
    return "\n".join(["dose,copy,ill,hospital", *lines]) + "\n"


@pytest.mark.parametrize(
    "copy",
    [
        lambda _, y: y,
        lambda _, y: 100 - 3 * y,
        lambda _, y: "dead" if y else "alive",
        lambda n, y: "morgue" if y else ["home", "ward"][n // 2 % 2],
        lambda n, y: "" if n % 7 == 0 else y,
    ],
    ids=["the same", "other numbers", "words", "more words", "with gaps"],
)
def test_a_column_that_is_the_label_in_other_words_is_refused(refused, copy):
    line = refused(of_outcome(copy))
    assert line.startswith("copy of ")
    assert line.endswith("is refused as a feature: it tells of every row its label, so it is the outcome; leave it out (--drop)")


@pytest.mark.parametrize(
    ("copy", "rows"),
    [
        (lambda n, y: 1 - y if n == 8 else y, 60),
        (lambda _, y: y, 16),
        (lambda n, y: f"{y}{n // 4}", 60),
        (lambda n, y: n + 100 * y, 60),
    ],
    ids=["one row is otherwise", "four rows of a class", "texts of few rows", "many numbers"],
)
def test_a_column_that_is_not_the_label_is_none_of_it(table, copy, rows):
    dataset = table(of_outcome(copy, rows))
    assert any(name.startswith("copy") for name in dataset.features)
    cut = [line for line in dataset.warnings if line.startswith("column copy tells by one cut the label of every row")]
    assert len(cut) == (copy(0, 1) == 100), "many numbers: told, as it may be right"


def test_the_label_in_other_words_may_be_left_out(table):
    assert table(of_outcome(lambda _, y: y), drop=["copy"]).features == ("dose",)
