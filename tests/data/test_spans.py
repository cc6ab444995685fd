import pytest

from data.spans import spans


def test_spans__by_hand() -> None:
    # Windows of 8 start every 6 pixels, and the last one at 20 - 8; their centres are 4, 10 and 16.
    assert [(span.seen, span.kept) for span in spans(20, 8)] == [
        (slice(0, 8), slice(0, 7)),
        (slice(6, 14), slice(7, 13)),
        (slice(12, 20), slice(13, 20)),
    ]
    # The last one is shifted inwards: it starts at 9 - 8, and the centres are 4 and 5.
    assert [(span.seen, span.kept, span.kept_of_seen) for span in spans(9, 8)] == [
        (slice(0, 8), slice(0, 4), slice(0, 4)),
        (slice(1, 9), slice(4, 9), slice(3, 8)),
    ]


@pytest.mark.parametrize("length", [1, 7, 8])
def test_spans__a_short_axis_has_one_window(length: int) -> None:
    (span,) = spans(length, 8)
    assert span.seen == span.kept == slice(0, length)


@pytest.mark.parametrize("side", [1, 2, 3, 8, 9])
def test_spans__every_pixel_once_and_by_the_nearest_centre(side: int) -> None:
    for length in range(side, 40):
        windows = spans(length, side)
        centres = [(span.seen.start + span.seen.stop) / 2 for span in windows]
        labelled = [(pixel, number) for number, span in enumerate(windows) for pixel in range(length)[span.kept]]
        assert [pixel for pixel, _ in labelled] == list(range(length))
        for pixel, number in labelled:
            distances = [abs(pixel + 0.5 - centre) for centre in centres]
            assert distances[number] == min(distances)
            assert windows[number].seen.start <= pixel < windows[number].seen.stop


def test_spans__of_a_given_overlap() -> None:
    assert [(span.seen, span.kept) for span in spans(20, 8, 2)] == [
        (slice(0, 8), slice(0, 7)),
        (slice(6, 14), slice(7, 13)),
        (slice(12, 20), slice(13, 20)),
    ]
    assert [span.seen for span in spans(20, 10, 0)] == [slice(0, 10), slice(10, 20)]
