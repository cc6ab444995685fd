from stages.exports.label_map import label_map_lines


def test_label_map_lines__no_name_is_a_comment_or_ends_early() -> None:
    lines = label_map_lines(["#1", "a: b", "c#"], ignored=False)
    assert [line.split(":")[0] for line in lines] == ["# label", "background", "_1", "a_ b", "c#"]
