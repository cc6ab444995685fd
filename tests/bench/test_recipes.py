from bench import recipes


def test_table__means_and_ranges_over_the_seeds() -> None:
    minutes = {"cam": 10.0, "labels": 2.2, "seg": 1.0}
    results = [
        {"data": "a", "recipe": "quick", "seed": 0, "minutes": minutes, "miou": {"CAM": 50.0, "student": None}},
        {"data": "a", "recipe": "quick", "seed": 1, "minutes": minutes, "miou": {"CAM": 52.0, "student": 60.0}},
    ]
    assert recipes.table(results).splitlines()[2:] == ["| a | quick | 2 | 10, 2, 1 | 51.0 (50.0 to 52.0) | 60.0 |"]
