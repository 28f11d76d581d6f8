"""What is held out is found in training texts: against plain sets of words."""

import random

import pytest

from lit_llm.data.quality.decontamination import COMMON, SEVERAL, Held, HeldoutItems

RNG = random.Random(0)
WORDS = [f"w{n}" for n in range(5000)]


def drawn(count):
    return RNG.choices(WORDS, k=count)


def held(items, texts, **options):
    return [tuple(one) for one in HeldoutItems(items, **options).held_by(texts)]


def test_a_planted_item_is_found_however_it_is_written():
    item = " ".join(drawn(40))
    around = [" ".join(drawn(200)) for _ in range(6)]
    planted = [
        around[0],
        f"{around[1]} {item} {around[2]}",
        f"{around[3]}\n{item.upper().replace(' ', ', ')}.",
        " ".join(item.split()[:20] + drawn(1) + item.split()[20:]),  # a word more
        " ".join(item.split()[:10]),  # a few words of it
        item,
        "",
    ]
    assert held([around[4], item], planted) == [(1, 1), (2, 1), (3, 1), (5, 1)]
    assert HeldoutItems([item]).held_by(planted)[0] == Held(1, 0)


def test_a_text_that_lies_in_a_held_out_one_is_found():
    document = drawn(2000)
    texts = [" ".join(document[500:600]), " ".join(drawn(100)), " ".join(document[:20] + drawn(200))]
    assert held([" ".join(document)], texts) == [(0, 0)]
    assert held([" ".join(document)], texts, share=0.0) == [(0, 0), (2, 0)]


@pytest.mark.parametrize(
    ("item", "text", "found"),
    [
        ("Who wrote the first book about the moon?", "Asked: who wrote the first book about the moon", True),
        ("Who wrote the first book about the moon?", "who wrote the first book about the moonlight", False),
        ("Who wrote the first book about the moon?", "wwho wrote the first book about the moon", False),
        ("Who pays?", "Who pays? The tenant.", False),  # too short to mean anything
        ("كم عدد الكواكب التي تدور حول نجم الشمس الآن", "سؤال: كَم عدد الكواكب التي تدور حول نجم الشمس الآن؟", True),
        ("太阳系一共有多少颗行星围绕太阳运行", "请问：太阳系一共有多少颗行星，围绕太阳运行？谢谢", True),
        ("太阳系一共有多少颗", "太阳系一共有多少颗行星", True),
        ("太阳系一共有多少颗", "太阳系有多少颗行星", False),
    ],
)
def test_short_items_and_scripts(item, text, found):
    assert bool(held([item], [text])) is found


def test_boilerplate_decides_nothing_but_a_whole_item_does():
    notice = drawn(60)
    items = [" ".join(notice + drawn(20)) for _ in range(SEVERAL)]
    texts = [" ".join(drawn(100) + notice) for _ in range(COMMON + 5)]
    assert held(items, texts) == []
    assert [one for one, _ in held(items, texts[:3])] == [0, 1, 2]  # of few texts, it is no boilerplate
    assert len(held(items[1:], texts)) == len(texts)  # nor of few items
    assert len(held([items[0]] * 3 + [items[1]], texts)) == len(texts)  # one item three times is one
    copies = [f"{' '.join(drawn(50))} {items[1]}" for _ in range(COMMON + 5)]
    assert held(items, copies) == [(number, 1) for number in range(COMMON + 5)]
    # A template with a slot is that too: what is in the slot decides.
    asked = [" ".join(notice + drawn(15)) for _ in range(COMMON + 5)]
    assert held(items, [*asked, f"so: {items[2]}"]) == [(COMMON + 5, 2)]


@pytest.mark.parametrize("count", [1, COMMON, COMMON + 1, 40, 400])
def test_what_is_copied_often_is_dropped_as_what_is_copied_once(count):
    items = [drawn(60) for _ in range(4)]
    of = [RNG.randrange(4) for _ in range(count)]
    places = [RNG.choice([0, 30, 59]) for _ in range(count)]
    copies = [
        " ".join([*items[n][:at], f"other{copy}", *items[n][at + 1 :]])
        for copy, (n, at) in enumerate(zip(of, places, strict=True))
    ]
    others = [" ".join(drawn(60)) for _ in range(50)]
    assert held([" ".join(item) for item in items], [*copies, *others]) == list(enumerate(of))
    halves = [" ".join([*drawn(30), *items[n][:45]]) for n in of]
    assert held([" ".join(item) for item in items], [*halves, *others]) == list(enumerate(of))


def test_against_plain_sets():
    n, share = 3, 0.4
    few = WORDS[:9]  # so that runs meet by chance
    items = [RNG.choices(few, k=RNG.randint(6, 12)) for _ in range(40)]
    items += [[*item] for item in items[:5]]  # which make no run more frequent among the items
    texts = [RNG.choices(few, k=RNG.randint(5, 40)) for _ in range(60)]

    def runs(words):
        return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}

    wanted = set()
    known = [runs(item) for item in items]
    lying = [runs(text) for text in texts]
    often = {
        run
        for run in set().union(*known)
        if sum(run in text for text in lying) > COMMON and sum(run in item for item in set(map(frozenset, known))) > 2
    }
    for number, text in enumerate(lying):
        own = len({run for run in text & set().union(*known) if run not in often})
        whole = [item <= text for item in known]
        rare = [len((item & text) - often) for item in known]
        part = [got >= max(1, share * len(item - often)) for got, item in zip(rare, known, strict=True)]
        lies = own >= max(1, share * (len(texts[number]) - n + 1)) and any(rare)
        if any(whole) or any(part) or lies:
            wanted.add(number)
    found = held([" ".join(item) for item in items], [" ".join(text) for text in texts], n=n, share=share)
    assert {text for text, _ in found} == wanted and 5 < len(wanted) < 60


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_texts_in_parts_give_what_all_of_them_give(share):
    """The frequency of boilerplate is that of all parts together."""
    words = [f"w{n}" for n in range(60)]
    pick = random.Random(5)
    header = " ".join(words[:20])
    items = [f"{header} {' '.join(pick.choices(words, k=n))}" for n in (3, 9, 14, 30, 30, 30)]
    items.append(" ".join(words[20:29]))
    texts = [f"{header} {' '.join(pick.choices(words, k=25))}" for _ in range(25)]
    texts += [f"x y {item} z" for item in items] + [items[3][: len(items[3]) // 2], "", "w1"]
    search = HeldoutItems(items, share=share)
    parts = [texts[begin : begin + 7] for begin in range(0, len(texts), 7)]
    found = [search.found_in(part) for part in parts]
    telling = search.telling(found)
    told = [(7 * n + one.text, one.item) for n, each in enumerate(found) for one in search.decided(each, telling)]
    assert told == [tuple(one) for one in search.held_by(texts)] and told
