from pathlib import Path

from rich.console import Console

from data.dataset import Dataset
from data.findings import Finding
from stages.check import Check, ClassCounts, Sizes, SplitCounts
from toco_cli.check_report import class_table, closing_line, finding_lines, summary_line


def found(*findings: Finding) -> Check:
    dataset = Dataset(
        root=Path("pets"),
        layout="class_folders",
        class_names=("[cat]", "dog"),
        splits={"[train]": (), "val": ()},
        train_split="[train]",
        val_split="val",
    )
    return Check(
        dataset=dataset,
        sizes=Sizes(smallest=(3, 4), median=(30, 40), largest=(300, 400)),
        splits={
            "[train]": SplitCounts(images=9, negatives=2, masks=1),
            "val": SplitCounts(images=5, negatives=0, masks=4),
        },
        classes=(
            ClassCounts(name="[cat]", images={"[train]": 6, "val": 3}, together=("dog",)),
            ClassCounts(name="dog", images={"[train]": 7, "val": 2}, together=()),
        ),
        findings=findings,
    )


def finding(**changes: object) -> Finding:
    values: dict[str, object] = {"level": "note", "topic": "duplicate", "text": "something", "advice": "nothing"}
    return Finding(**{**values, **changes})  # type: ignore[arg-type]


def test_class_table__counts_and_names_as_they_are() -> None:
    console = Console(width=80)
    with console.capture() as said:
        console.print(class_table(found()))
    rows = [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in said.get().splitlines()
    ]
    assert [row for row in rows if len(row) == 4] == [
        ["class", "[train]", "val", "nearly always together with"],
        ["[cat]", "6", "3", "dog"],
        ["dog", "7", "2", ""],
        ["none of them", "2", "0", ""],
        ["all images", "9", "5", ""],
        ["with a ground-truth mask", "1", "4", ""],
    ]


def test_summary_line__width_before_height() -> None:
    assert summary_line(found()) == (
        "pets: layout class folders; classes: 2; images: 0; "
        "width x height: 4 x 3 (smallest), 40 x 30 (median), 400 x 300 (largest)"
    )


def test_finding_lines__by_level_and_cut() -> None:
    names = tuple(f"{number}.jpg" for number in range(10))
    lines = finding_lines(found(finding(items=names), finding(level="error", items=("x" * 300,)), finding()))
    assert [line.plain for line in lines] == [
        "Errors",
        "- something: nothing",
        "    " + "x" * 240 + " ...",
        "Notes",
        "- something: nothing",
        "    0.jpg; 1.jpg; 2.jpg; 3.jpg; 4.jpg; 5.jpg; 6.jpg; 7.jpg; and 2 more",
        "- something: nothing",
    ]


def test_closing_line__what_to_do_next() -> None:
    skippable, other = finding(level="error", skippable=True), finding(level="error")
    assert (
        closing_line(found(finding()), Path("pets"))
        == "The data set is ready for training. Next: toco run pets --out RUN"
    )
    assert closing_line(found(skippable), Path("my pets")).endswith(": toco run 'my pets' --out RUN --skip-bad")
    assert closing_line(found(skippable, other), Path("pets")).startswith("Fix the errors first. --skip-bad skips the")
