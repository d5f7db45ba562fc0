"""Shakespeare's English as today's: every rule's known values, what must stay, and all of tinyshakespeare."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.old_lines import LINES
from research.parts import modern_english
from research.parts.modern_english import RULES, STYLES, WORDS, applied, archaic_forms, modernise

SHAKESPEARE = Path(__file__).resolve().parents[2] / "shared" / "data" / "tinyshakespeare" / "input.txt"

# Written out a second time, apart from the rules: forms that no modern sentence has, wherever they stand.
NEVER_MODERN = re.compile(
    r"\b(?:thou|thee|thy|thine|thyself|ye|hath|hast|doth|dost|didst|hadst|shalt|canst|couldst|wouldst|shouldst|"
    r"mayst|mightst|wert|wast|ere|whence|whither|hither|thither|wherefore|prithee|methinks|methought|perchance|"
    r"haply|belike|anon|nay|ay|yea|alack|sirrah|fain|oft|yon|yond|yonder|thrice|withal|brethren|morrow|spake|holp|"
    r"durst|unto|amongst|whilst|betimes|naught|nought|aught|hie|quoth|troth|zounds|betwixt|saith|knave|verily|"
    r"forsooth|e'er|ne'er|o'er|ta'en|is't|for't|to't|in't|do't|on't|know'st|speakest|lovest|cometh|speaketh|"
    r"loveth|call'd|look'd|banish'd)\b|(?<!\w)'(?:tis|twas|twere|twill|twixt|gainst)\b",
    re.IGNORECASE,
)

# rule: what stands before and after it; the other rules have their say too
CASES = {
    "thou'rt": [
        ("Thou'rt late.", "You're late."),
        ("I hope thou'lt come.", "I hope you'll come."),
        ("Thou'ldst not believe it.", "You'd not believe it."),
        ("Thou’rt late.", "You’re late."),
        ("Ye're welcome.", "You're welcome."),
    ],
    "it at the end": [
        ("Is't so?", "Is it so?"),
        ("I'll do't.", "I'll do it."),
        ("Look to't.", "Look to it."),
        ("No more on't.", "No more of it."),
        ("I thank you for't.", "I thank you for it."),
        ("IS'T SO?", "IS IT SO?"),
        ("They imprison't there.", "They imprison it there."),
    ],
    "it alone": [("Let 't be.", "Let it be.")],
    "'twere": [
        ("'Twere pity.", "It would be pity."),
        ("As if 'twere gold.", "As if it were gold."),
    ],
    "have": [("Let us ha' no more.", "Let us have no more.")],
    "in the": [("He is i' the house.", "He is in the house."), ("I' faith, no.", "In faith, no.")],
    "of the": [("The top o' the hill.", "The top of the hill."), ("O' my word!", "On my word!")],
    "over": [("It o'ergrew the wall.", "It overgrew the wall."), ("O'erwhelm'd", "Overwhelmed")],
    "the": [("Th' other door.", "The other door."), ("i' th' house", "in the house")],
    "art": [
        ("Thou art kind.", "You are kind."),
        ("Art thou mad?", "Are you mad?"),
        ("O thou that art so kind!", "O you that are so kind!"),
        ("Who art thou?", "Who are you?"),
        ("What, art mad?", "What, are you mad?"),
        ("Thy art is long.", "Your art is long."),
    ],
    "wilt": [
        ("Thou wilt see.", "You will see."),
        ("Wilt thou stay?", "Will you stay?"),
        ("If thou wilt not, go.", "If you will not, go."),
    ],
    "you left out": [
        ("Dost think so?", "Do you think so?"),
        ("What, canst not rule her?", "What, can you not rule her?"),
    ],
    "thou asks": [
        ("Know'st thou not the way?", "Do you not know the way?"),
        ("Why look'st thou sad?", "Why do you look sad?"),
        ("Lovest thou him?", "Do you love him?"),
    ],
    "second person": [
        ("Thou speakest well.", "You speak well."),
        ("Thou lovest her.", "You love her."),
        ("Thou gavest it.", "You gave it."),
        ("Thou hold'st it.", "You hold it."),
        ("Thou know'st it.", "You know it."),
        ("Thou tak'st it.", "You take it."),
        ("Thou runn'st away.", "You run away."),
        ("Thou deniest it.", "You deny it."),
        ("Thou liest.", "You lie."),
        ("Thou hidest.", "You hide."),
        ("If thou forget'st me.", "If you forget me."),
        ("Thou call'dst me.", "You called me."),
        ("Thou camest late.", "You came late."),
        ("THOU SPEAKEST", "YOU SPEAK"),
        ("Thou meanest well.", "You mean well."),
        ("My dear'st friend.", "My dearest friend."),
        ("The wicked'st man.", "The most wicked man."),
        ("The meanest man.", "The meanest man."),
    ],
    "third person": [
        ("He speaketh.", "He speaks."),
        ("She loveth him.", "She loves him."),
        ("It goeth well.", "It goes well."),
        ("He trieth.", "He tries."),
        ("Time passeth.", "Time passes."),
        ("He teacheth us.", "He teaches us."),
        ("It sitteth there.", "It sits there."),
        ("Who cometh?", "Who comes?"),
    ],
    "participles": [
        ("She was deceiv'd.", "She was deceived."),
        ("I call'd him.", "I called him."),
        ("It dropp'd.", "It dropped."),
        ("'Banish'd'?", "'Banished'?"),
        ("HE LOOK'D", "HE LOOKED"),
        ("I’d have kill’d it.", "I’d have killed it."),
    ],
    "phrases": [
        ("We must needs go.", "We must go."),
        ("Fare thee well.", "Farewell."),
        ("From whence?", "From where?"),
        ("By my troth, no.", "Upon my word, no."),
        ("I cry you mercy.", "I beg your pardon."),
        ("Get thee gone!", "Be gone!"),
        ("She was wont to sing.", "She used to sing."),
        ("I prithee, stay.", "Please, stay."),
        ("Now, I prithee, stay.", "Now, please, stay."),
        ("Thou canst not go.", "You cannot go."),
        ("An if he go", "If he go"),
    ],
    "pray you": [("Pray you, sit.", "Please, sit."), ("Come, I pray you, sit.", "Come, please, sit.")],
    "orders": [
        ("Go thou and see.", "Go and see."),
        ("Lie thou there.", "Lie there."),
        ("Seal thou this.", "Seal this."),
    ],
    "get thee": [("Get thee to bed.", "Get to bed."), ("Get thee a wife.", "Get yourself a wife.")],
    "thine": [
        ("Thine eyes!", "Your eyes!"),
        ("Thine own son.", "Your own son."),
    ],
    "mine": [("Mine own house.", "My own house."), ("A friend of mine own age.", "A friend of my own age.")],
    "yonder": [
        ("Yonder window.", "That window."),
        ("Yonder walls.", "Those walls."),
        ("Yonder comes Tom.", "There comes Tom."),
        ("Who is yonder?", "Who is over there?"),
    ],
    "withal": [
        ("Something to cut it withal.", "Something to cut it with."),
        ("and withal kind", "and also kind"),
    ],
    "writ": [("It is writ.", "It is written."), ("I writ to him.", "I wrote to him.")],
    "marry": [("Marry, sir, no.", "Indeed, sir, no."), ("Ay, marry, sir.", "Yes, indeed, sir.")],
    "if": [("An thou go, I go.", "If you go, I go."), ("An it please you.", "If it please you.")],
    "agreement": [
        ("Thou is here.", "You are here."),
        ("They hath it.", "They have it."),
        ("I doth know.", "I do know."),
    ],
    "double degrees": [("The most worst.", "The worst."), ("Much more better.", "Much better.")],
    "perfect with be": [
        ("He is come.", "He has come."),
        ("They are fled.", "They have fled."),
        ("I am come.", "I have come."),
    ],
    "questions": [
        ("Know you not me?", "Do you not know me?"),
        ("Say you so?", "Do you say so?"),
        ("What say you?", "What do you say?"),
        ("How came you here?", "How did you come here?"),
        ("What says he?", "What does he say?"),
    ],
    "negatives": [
        ("I know not.", "I do not know."),
        ("I know thee not.", "I do not know you."),
        ("He knows me not.", "He does not know me."),
        ("We saw not the man.", "We did not see the man."),
        ("I KNOW NOT", "I DO NOT KNOW"),
    ],
    "orders not to": [
        ("Speak not.", "Do not speak."),
        ("Fear you not, sir.", "Do not fear, sir."),
        ("Tell me not.", "Do not tell me."),
        ("Good dog, come here. Bite not.", "Good dog, come here. Do not bite."),
    ],
    "shortened words": [
        ("'Tis he.", "It is he."),
        ("'TIS HE", "IT IS HE"),
        ("’tis he", "it is he"),
        ("'Twas he.", "It was he."),
        ("I ne'er did.", "I never did."),
        ("'gainst me", "against me"),
        ("Come to-morrow.", "Come tomorrow."),
    ],
    "auxiliaries": [
        ("She hath it.", "She has it."),
        ("Dost thou?", "Do you?"),
        ("Thou wert there.", "You were there."),
        ("Thou shalt.", "You shall."),
        ("It doth.", "It does."),
        ("They durst not.", "They dared not."),
    ],
    "pronouns": [
        ("thou", "you"),
        ("Thou", "You"),
        ("THOU", "YOU"),
        ("I see thee.", "I see you."),
        ("thy love", "your love"),
        ("Ye men!", "You men!"),
        ("It is thine.", "It is yours."),
        ("A friend of thine is here.", "A friend of yours is here."),
    ],
    "places": [
        ("Come hither!", "Come here!"),
        ("Wherefore?", "Why?"),
        ("Come unto me.", "Come to me."),
        ("Betwixt us.", "Between us."),
    ],
    "little words": [
        ("Ere long.", "Before long."),
        ("Nay, sir.", "No, sir."),
        ("Methinks it is.", "I think it is."),
        ("AY!", "YES!"),
        ("Thrice.", "Three times."),
    ],
    "exclamations": [("Alack!", "Alas!"), ("Zounds!", "Good grief!"), ("How now!", "What now!")],
    "old verbs": [("He spake.", "He spoke."), ("Tarry here.", "Wait here."), ("quoth he", "said he")],
    "old nouns": [
        ("Good morrow!", "Good morning!"),
        ("My brethren.", "My brothers."),
        ("a knave's", "a rascal's"),
    ],
    "old adjectives": [("A goodly man.", "A fine man."), ("Be not afeard.", "Be not afraid.")],
}
SLANG = {
    "greetings": [("Good morrow.", "Hey there."), ("Farewell!", "See ya!"), ("Ay, sir.", "Yeah, man.")],
    "people": [("My lord, my friend!", "Boss, my mate!"), ("Villain!", "Jerk!"), ("No, sir.", "No, man.")],
    "relaxed words": [("It was very cold.", "It was really cold."), ("Perchance.", "Maybe.")],
    "short forms": [
        ("I do not know.", "I dunno."),
        ("I am not here.", "I ain't here."),
        ("We are going to sing.", "We are gonna sing."),
        ("They want to sing.", "They wanna sing."),
        ("I am going to London.", "I'm going to London."),
        ("So it is.", "So it is."),
    ],
}
MODERN = """The art of war.|He will wilt in the heat.|The flowers wilt.|I think that art is good.
best, rest, forest, honest, west, guest, test, request, harvest, priest, greatest, tempest, breath, death
teeth, Elizabeth, Macbeth, seventh, wreath, beneath, twentieth, Seth, Nazareth, tooth, both, cloth, with
interest, protest, suggest, earnest, digest, modest, contest, invest, lest, jest, quest, nearest, dearest
lowest|I'd go, he'd go, you'd go, who'd go, that'd do, they'd do, there'd be
She cried; he tried; red, bed and need.|can't, don't, isn't, won't, ain't, hasn't, mustn't, shan't
It is ten o'clock.|O'Brien and O'Neill|They will marry in May.|To love, marry, and live.|This book is mine.
A friend of mine is old.|A gold mine engineer|holy writ|The lawyer filed a writ.|I love you.
See you tomorrow?|Do you know me?|Are you not here?|Have you not?|Will you not stay?|I do not know.
I think not.|I pray you are well.|An apple, an hour, an I-beam|Here and there.|Where were you?
Hence the name.|Therefore we go.|mere, here, there, were|even so|thousand, thought, though, therapy
Not only that.|I want not only this but that.|He is coming. They are gone.|He said not to go.
must, first, most, last|the boys' house, the boy's house|May I?|Day, way, say, may, play, away
the eye, the dye, bye|My lord is dead.|"Well?" said he.|the midst of it, amidst|Wednesday is best.
The most honest man|more water, more paper|Waste not, want not.|Let us not forget.
The most interesting man|I dare not.
Fear not only him.
""".replace("\n", "|").split("|")
PAIRS = [(rule, old, new) for rule, pairs in CASES.items() for old, new in pairs]
SLANG_PAIRS = [(rule, old, new) for rule, pairs in SLANG.items() for old, new in pairs]
ARCHAIC = sorted(WORDS)


@pytest.mark.parametrize(("rule", "old", "new"), PAIRS, ids=[f"{rule}-{old}" for rule, old, _ in PAIRS])
def test_known_value(rule: str, old: str, new: str) -> None:
    assert modernise(old) == new
    assert archaic_forms(new) == []
    assert bool(archaic_forms(old)) == (old != new)
    assert rule in applied(old) or new in (old, "The meanest man.", "Your art is long.")


@pytest.mark.parametrize(
    ("rule", "old", "new"), SLANG_PAIRS, ids=[f"{rule}-{old}" for rule, old, _ in SLANG_PAIRS]
)
def test_slang(rule: str, old: str, new: str) -> None:
    assert modernise(old, "slang") == new
    assert rule in applied(old, "slang") or modernise(old) == new
    assert rule not in applied(old)


def test_every_rule_has_known_values() -> None:
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert set(names) == set(CASES) | set(SLANG)
    assert all(rule.style in STYLES and rule.what for rule in RULES)
    assert len(PAIRS) > 100


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_alone(rule: modern_english.Rule) -> None:
    """`apply` makes the changes that `find` names, and leaves all else."""
    text = " / ".join(old for pairs in (CASES | SLANG).values() for old, _ in pairs)
    changed, count = rule.apply(text)
    changes = list(rule.find(text))
    assert count == len(changes)
    assert all(text[at:end] != new for at, end, new in changes)
    for at, end, new in reversed(changes):
        text = text[:at] + new + text[end:]
    assert text == changed


def test_words() -> None:
    assert len(WORDS) >= 200
    assert all(old == old.lower() and old != new for old, new in WORDS.items())
    assert {word: modernise(word) for word in WORDS if archaic_forms(WORDS[word])} == {}
    groups = [set(table) for table, _ in modern_english.GROUPS.values()]
    assert sum(map(len, groups)) == len(WORDS), "a word stands in two tables"


@pytest.mark.parametrize("word", ARCHAIC)
def test_a_word_of_the_table_goes(word: str) -> None:
    assert modernise(f"So {word} so.") != f"So {word} so."
    assert archaic_forms(modernise(word)) == []


@pytest.mark.parametrize("text", [text for text in MODERN if text])
def test_modern_text_stays(text: str) -> None:
    assert modernise(text) == text
    assert archaic_forms(text) == []


def test_forms_as_they_stand_and_in_their_order() -> None:
    assert archaic_forms("'TIS Thou, and thou ART a Knave.") == ["'TIS", "Thou", "thou", "ART", "Knave"]
    assert archaic_forms("It is you.") == []


def test_blanks_and_line_breaks_stay() -> None:
    assert modernise("  Thou\n\tart   here;\r\n\r\nay!  ") == "  You\n\tare   here;\r\n\r\nyes!  "


def test_counts() -> None:
    assert applied("Thou hast my love, and thy love.") == Counter({"pronouns": 2, "agreement": 1})
    assert applied("You have my love.") == Counter()
    assert applied("You have it, sir.", "slang") == Counter({"people": 1})


@pytest.mark.parametrize("call", [modernise, applied])
@pytest.mark.parametrize("style", ["", "Modern", "old"])
def test_unknown_style(call, style: str) -> None:
    with pytest.raises(ValueError, match=f"style='{style}': allowed are modern and slang"):
        call("thou", style)


def lines_of(text: str) -> int:
    return text.count("\n")


SIGNS = st.sampled_from(
    [" ", " ", " ", ", ", ". ", "? ", "! ", "; ", "\n", "\n\n", ": ", " '", "' ", "-", "--", "’"]
)
CASING = st.sampled_from([str.lower, str.capitalize, str.upper])
MORE = [
    "art",
    "wilt",
    "marry",
    "writ",
    "know",
    "speak",
    "not",
    "you",
    "I",
    "he",
    "what",
    "say",
    "come",
    "is",
    "an",
]
MORE += [
    "speakest",
    "hold'st",
    "goeth",
    "deceiv'd",
    "o'",
    "i'",
    "th'",
    "'t",
    "eyes",
    "the",
    "king",
    "and",
    "thou'rt",
]
TOKEN = st.builds(
    lambda word, case, sign: case(word) + sign, st.sampled_from(ARCHAIC + 6 * MORE), CASING, SIGNS
)


@settings(max_examples=150, deadline=None)
@given(st.lists(TOKEN, max_size=12).map("".join))
def test_any_join_of_old_words(text: str) -> None:
    new = modernise(text)
    assert lines_of(new) == lines_of(text)
    assert modernise(new) == new
    assert archaic_forms(new) == []
    assert (archaic_forms(text) == []) == (new == text)
    assert lines_of(modernise(text, "slang")) == lines_of(text)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="thoueyTHOU'’ \n.,?-stadb'", max_size=40))
@example("thou'")
@example("'''t't'd'st")
def test_any_text(text: str) -> None:
    """A model does not always write words."""
    new = modernise(text)
    assert lines_of(new) == lines_of(text)
    assert modernise(new) == new
    assert not re.search(r"(?i)(?<!\w)thou(?!\w)", new)


def test_old_lines() -> None:
    assert len(LINES) == len(set(LINES)) == 80
    assert all(20 <= len(line) <= 60 and "\n" not in line for line in LINES)
    for line in LINES:
        assert archaic_forms(line), line
        assert archaic_forms(modernise(line)) == [], line
        assert not NEVER_MODERN.search(modernise(line)), line
    met = set().union(*(applied(line) for line in LINES))
    assert met == {rule.name for rule in RULES if rule.style == "modern"}


@pytest.fixture(scope="module")
def shakespeare() -> str:
    if not SHAKESPEARE.is_file():
        pytest.skip("no ../shared/data/tinyshakespeare here")
    return SHAKESPEARE.read_text(encoding="utf-8")


@pytest.mark.shared
def test_old_lines_are_not_shakespeares(shakespeare: str) -> None:
    known = " ".join(re.findall(r"\w+", shakespeare.lower()))
    assert [line for line in LINES if " ".join(re.findall(r"\w+", line.lower())) in known] == []


@pytest.mark.shared
@pytest.mark.parametrize("every", [10, pytest.param(1, marks=pytest.mark.soak)])
def test_nothing_archaic_is_left_in_lines_of_tinyshakespeare(shakespeare: str, every: int) -> None:
    """Line by line, as a model of lines writes them."""
    old = shakespeare.split("\n")[::every]
    new = [modernise(line) for line in old]
    changed = sorted({after for before, after in zip(old, new, strict=True) if before != after})
    assert 7_500 < every * len(changed) < 9_000  # of 40,001 lines, many of them blank or names of speakers
    assert [line for line in changed if archaic_forms(line) or modernise(line) != line] == []
    assert [line for line in new if NEVER_MODERN.search(line)] == []


@pytest.mark.shared
def test_tinyshakespeare_in_one_piece(shakespeare: str) -> None:
    """Here sentences extend over several lines, and speeches follow one another."""
    text = shakespeare[400_000:600_000]
    new = modernise(text)
    assert lines_of(new) == lines_of(text)
    assert archaic_forms(new) == []
    assert not NEVER_MODERN.search(new)
    speakers = re.compile(r"^[A-Z][A-Z ]+:$", re.MULTILINE)
    assert speakers.findall(new) == speakers.findall(text)


SPOT_CHECKS = [  # lines as they stand in it, and what a person would write today
    ("Thou shouldst not scape me here.", "You should not escape me here."),
    ("How dost thou feel thyself now?", "How do you feel yourself now?"),
    ("Fiend, thou torment'st me ere I come to hell!", "Fiend, you torment me before I come to hell!"),
    ("We know't, we know't.", "We know it, we know it."),
    (
        "No more talking on't; let it be done: away, away!",
        "No more talking of it; let it be done: away, away!",
    ),
    ("Come hither, man. I see that thou art poor:", "Come here, man. I see that you are poor:"),
    ("Tear-falling pity dwells not in this eye.", "Tear-falling pity does not dwell in this eye."),
    ("More than thy fame and envy. Fix thy foot.", "More than your fame and envy. Fix your foot."),
    ("And wrath o'erwhelm'd my pity: I request you", "And wrath overwhelmed my pity: I request you"),
    ("And then, as we have ta'en the sacrament,", "And then, as we have taken the sacrament,"),
    ("Thy friends are fled to wait upon thy foes,", "Your friends have fled to wait upon your foes,"),
    ("No, marry; I fear thee!", "No, indeed; I fear you!"),
    ("Lady, by yonder blessed moon I swear", "Lady, by that blessed moon I swear"),
    ("To shrink mine arm up like a wither'd shrub;", "To shrink my arm up like a withered shrub;"),
    ("Art thou my calf?", "Are you my calf?"),
    ("As well appeareth by the cause you come;", "As well appears by the cause you come;"),
    ("I know not, mighty sovereign, but by guess.", "I do not know, mighty sovereign, but by guess."),
    ("If e'er thou wast thyself and these woes thine,", "If ever you were yourself and these woes yours,"),
    (
        "Stand not amazed: the prince will doom thee death,",
        "Do not stand amazed: the prince will doom you death,",
    ),
    ("Dally not with the gods, but get thee gone.", "Do not dally with the gods, but be gone."),
    ("Fear not thou, man, thou shalt lose nothing here.", "Do not fear, man, you shall lose nothing here."),
    ("That knew'st this was the prince,", "That knew this was the prince,"),
    (
        "'Fore your queen died, she was more worth such gazes",
        "Before your queen died, she was more worth such gazes",
    ),
    ("That's I, an't like your grace:", "That's I, if it like your grace:"),
    ("Yea, say you so?", "Yes, do you say so?"),
    (
        "Sirrah, get thee to Plashy, to my sister Gloucester;",
        "Fellow, get to Plashy, to my sister Gloucester;",
    ),
    (
        "Dost lack any money? I have a little money for thee.",
        "Do you lack any money? I have a little money for you.",
    ),
]


@pytest.mark.shared
def test_known_lines_of_tinyshakespeare(shakespeare: str) -> None:
    lines = set(shakespeare.split("\n"))
    assert len(SPOT_CHECKS) >= 25
    assert [old for old, _ in SPOT_CHECKS if old not in lines] == []
    assert [(old, modernise(old)) for old, new in SPOT_CHECKS if modernise(old) != new] == []
