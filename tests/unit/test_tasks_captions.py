"""Scores of answers and captions against several references, by hand."""

import math

import pytest

from replica.tasks.text_metrics import cider, normalize_vqa, phrase_recall, vqa_accuracy


def test_phrase_recall_counts_whole_phrases_as_often_as_they_stand_there():
    reference = "a red circle top left , a blue cross top right , a blue cross top right"
    assert phrase_recall("a blue cross top right , a red circle top left", [reference]) == pytest.approx(2 / 3)
    assert phrase_recall("a red circle top right", [reference]) == 0.0
    assert phrase_recall("x , y", ["y", "z , x , y , w"]) == 1.0


def test_vqa_accuracy_leaves_each_persons_answer_out_once():
    # Three of ten said it: left out one of them 2/3, left out another 3/3: (3 * 2/3 + 7 * 1) / 10.
    assert vqa_accuracy("Red", ["red"] * 3 + ["blue"] * 7) == pytest.approx(0.9)
    assert vqa_accuracy("red", ["red"] * 4 + ["blue"] * 6) == pytest.approx(1.0)
    assert vqa_accuracy("red", ["red"] + ["blue"] * 9) == pytest.approx((0 + 9 * (1 / 3)) / 10)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Two  dogs", "2 dogs"),  # articles, numerals, case, space
        ("None", "0"),
        ("eleven", "eleven"),
        ("blue/white", "blue white"),  # a mark between letters becomes a space
        ("blue / white", "blue white"),  # and next to a space goes
        ("yes, sir!", "yes sir"),
        ("t-shirt", "t shirt"),
        ("t-shirt - blue", "tshirt blue"),  # a mark next to a space anywhere goes everywhere
        ("1,000 t-shirts", "1000 tshirts"),  # as do all marks with a comma between digits
        ("mr. smith", "mr smith"),
        ("3.5", "3.5"),  # a period before a digit stays
        ("cant", "can't"),
        ("its", "its"),
        ("shouldntve", "shouldntve"),  # only one apostrophe may be missing
        ("shouldn'tve", "shouldn't've"),
        ("a", ""),
    ],
)
def test_vqa_answers_are_normalised_as_officially(text, normal):
    assert normalize_vqa(text) == normal


def test_vqa_answers_are_normalised_where_people_differ():
    people = ["two"] * 5 + ["2"] * 4 + ["three"]
    assert vqa_accuracy("2", people) == vqa_accuracy("the two.", people) == pytest.approx(1.0)
    assert vqa_accuracy("2", ["two"] * 10) == 0.0  # one answer of all is compared as it is
    assert vqa_accuracy(" two\n", ["two"] * 10) == 1.0


def test_cider_of_one_word_captions_by_hand():
    # Two images; only unigrams exist. idf of `cat` and of `dog` is log 2, so a right word has cosine 1, of n = 1 alone: 10 / 4.
    assert cider(["cat", "dog"], [["cat"], ["dog"]]) == pytest.approx([2.5, 2.5])
    assert cider(["dog", "dog"], [["cat"], ["dog"]]) == pytest.approx([0.0, 2.5])
    # A word of every reference has idf 0 and counts for nothing.
    assert cider(["a", "a"], [["a"], ["a"]]) == pytest.approx([0.0, 0.0])


def test_cider_clips_repeats_and_punishes_length():
    # `cat cat` against `cat`: unigram vectors (2 w) and (w), w = log 2; clipped product w * w over norms 2 w * w = 1/2; its bigram
    # occurs in no reference. One word more than the reference: exp(-1 / 72). Of four lengths one counts.
    expected = 10 / 4 * 0.5 * math.exp(-1 / 72)
    assert cider(["cat cat", "dog"], [["cat"], ["dog"]])[0] == pytest.approx(expected)
