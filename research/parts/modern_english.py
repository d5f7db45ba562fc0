r"""Rules that turn Shakespeare's English into today's: a table of words, verb endings, agreement, word order.

    modernise("Know'st thou not whence he cometh?")     # 'Do you not know from where he comes?'
    modernise("Good morrow, my lord.", "slang")         # 'Hey there, boss.'
    archaic_forms("Thou art a knave.")                  # ['Thou', 'art', 'knave']
    applied("Thou hast my love.")                       # Counter({'agreement': 1, 'pronouns': 1})

RULES lists the rules in the order in which they are applied. They are applied again and again until none
finds anything, so a text that has been modernised stays as it is. If a form has several meanings, the rule
looks at the words beside it; if these do not decide, it leaves the form alone. Line breaks, blanks and
punctuation stay. Every rule treats straight and curly apostrophes (' and ’) alike.

Sources E. A. Abbott, A Shakespearian Grammar (3rd ed. 1870), on the syntax of thou, of an for if, of verbs
        with be, of questions and negatives without do, and on shortened words; C. T. Onions, A Shakespeare
        Glossary (1911), for single words.
Departs Each word has one meaning: haply always becomes "perhaps", even where it means "happily". The word
        order changes only in short questions and negatives.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

STYLES = ("modern", "slang")
MOST_ROUNDS = 20  # three are enough for any line of tinyshakespeare

Change = tuple[int, int, str]  # where a form begins and ends, and what replaces it


@dataclass(frozen=True)
class Rule:
    """One rule. find yields the changes that it would make in a text, from left to right; each replaces at
    least one character.
    """

    name: str
    what: str
    find: Callable[[str], Iterator[Change]]
    style: str = "modern"  # "slang" for the rules that only this style has

    def apply(self, text: str) -> tuple[str, int]:
        """The text after this rule only, and how many forms the rule changed."""
        parts, end, count = [], 0, 0
        for at, until, new in self.find(text):
            parts += [text[end:at], new]
            end, count = until, count + 1
        return "".join([*parts, text[end:]]), count


def _words(text: str) -> set[str]:
    return set(text.split())


# --- the table: lower case, one meaning each ------------------------------------------------------

PRONOUNS = {
    "thou": "you",
    "thee": "you",
    "thy": "your",
    "thine": "yours",  # "thine eyes" has a rule of its own
    "ye": "you",
    "thyself": "yourself",
    "thy self": "yourself",
    "whoso": "whoever",
    "whosoever": "whoever",
    "whomsoever": "whomever",
    "t'other": "the other",
}

AUXILIARIES = {
    "hast": "have",
    "hath": "has",
    "dost": "do",
    "doest": "do",
    "doth": "does",
    "doeth": "does",
    "wert": "were",
    "wast": "were",
    "shalt": "shall",
    "canst": "can",
    "couldst": "could",
    "could'st": "could",
    "wouldst": "would",
    "would'st": "would",
    "shouldst": "should",
    "should'st": "should",
    "mayst": "may",
    "may'st": "may",
    "mayest": "may",
    "mightst": "might",
    "might'st": "might",
    "mightest": "might",
    "didst": "did",
    "did'st": "did",
    "hadst": "had",
    "had'st": "had",
    "beest": "be",
    "be'st": "be",
    "durst": "dared",
    "saith": "says",
}

SHORTENED = {  # Abbott § 456-463
    "'tis": "it is",
    "'twas": "it was",
    "'twill": "it will",
    "'twould": "it would",
    "'twixt": "between",
    "'gainst": "against",
    "'fore": "before",
    "'bove": "above",
    "'mongst": "among",
    "'mong": "among",
    "'scape": "escape",
    "scape": "escape",
    "'scapes": "escapes",
    "'scaped": "escaped",
    "'bout": "about",
    "'neath": "beneath",
    "'larum": "alarm",
    "'larums": "alarms",
    "'pothecary": "apothecary",
    "'havior": "behaviour",
    "o'er": "over",
    "e'er": "ever",
    "ne'er": "never",
    "e'en": "even",
    "e'enow": "just now",
    "whate'er": "whatever",
    "where'er": "wherever",
    "whene'er": "whenever",
    "whoe'er": "whoever",
    "howe'er": "however",
    "whatsoe'er": "whatever",
    "wheresoe'er": "wherever",
    "whosoe'er": "whoever",
    "howsoe'er": "however",
    "wheresoever": "wherever",
    "whensoever": "whenever",
    "howsoever": "however",
    "ta'en": "taken",
    "overta'en": "overtaken",
    "o'erta'en": "overtaken",
    "mista'en": "mistaken",
    "underta'en": "undertaken",
    "stol'n": "stolen",
    "fall'n": "fallen",
    "befall'n": "befallen",
    "giv'n": "given",
    "driv'n": "driven",
    "ris'n": "risen",
    "swoll'n": "swollen",
    "ev'n": "even",
    "heav'n": "heaven",
    "heav'ns": "heavens",
    "sev'n": "seven",
    "ev'ry": "every",
    "ev'ning": "evening",
    "nev'r": "never",
    "ev'r": "ever",
    "pow'r": "power",
    "pow'rs": "powers",
    "flow'r": "flower",
    "flow'rs": "flowers",
    "tow'r": "tower",
    "hon'ring": "honouring",
    "dang'rous": "dangerous",
    "mem'ry": "memory",
    "vict'ry": "victory",
    "wand'ring": "wandering",
    "wond'rous": "wondrous",
    "court'sy": "curtsy",
    "curt'sy": "curtsy",
    "court'sies": "curtsies",
    "by'r": "by our",
    "i'ld": "I'd",
    "he'ld": "he'd",
    "she'ld": "she'd",
    "we'ld": "we'd",
    "you'ld": "you'd",
    "they'ld": "they'd",
    "o'sunday": "on Sunday",
    "i'faith": "in faith",
    "i'th'": "in the",
    "i'the": "in the",
    "o'th'": "of the",
    "o'the": "of the",
    "to-day": "today",
    "to-night": "tonight",
    "to-morrow": "tomorrow",
}

PLACES = {
    "whence": "from where",
    "whither": "where",
    "hither": "here",
    "thither": "there",
    "thence": "from there",
    "hitherward": "this way",
    "thitherward": "that way",
    "hitherto": "until now",
    "wherefore": "why",
    "whereof": "of which",
    "whereto": "to which",
    "whereunto": "to which",
    "whereon": "on which",
    "whereat": "at which",
    "wherewith": "with which",
    "therewith": "with it",
    "thereto": "to it",
    "thereunto": "to it",
    "thereon": "on it",
    "thereat": "at it",
    "hereof": "of this",
    "hereto": "to this",
    "betwixt": "between",
    "athwart": "across",
    "anigh": "near",
    "nigh": "near",
    "well-nigh": "nearly",
    "afore": "before",
    "unto": "to",
    "amongst": "among",
    "yond": "that",  # "yon" and "yonder" have rules of their own where a noun does not follow
    "yon": "that",
}

LITTLE_WORDS = {
    "ere": "before",
    "whilst": "while",
    "whiles": "while",
    "sith": "since",
    "sithence": "since",
    "oft": "often",
    "oft-times": "often",
    "ofttimes": "often",
    "oftentimes": "often",
    "anon": "soon",
    "fain": "gladly",
    "lief": "gladly",
    "perchance": "perhaps",
    "haply": "perhaps",
    "mayhap": "perhaps",
    "belike": "perhaps",
    "peradventure": "perhaps",
    "verily": "truly",
    "forsooth": "indeed",
    "insooth": "indeed",
    "betimes": "early",
    "thrice": "three times",
    "twain": "two",
    "enow": "enough",
    "naught": "nothing",
    "nought": "nothing",
    "aught": "anything",
    "apace": "fast",
    "amain": "with full force",
    "erst": "once",
    "erstwhile": "once",
    "whilom": "once",
    "erewhile": "just now",
    "howbeit": "however",
    "methinks": "I think",
    "methink": "I think",
    "methought": "I thought",
    "meseems": "it seems to me",
    "prithee": "please",
    "nay": "no",
    "ay": "yes",
    "aye": "yes",
    "yea": "yes",
    "moe": "more",
}

EXCLAMATIONS = {
    "alack": "alas",
    "lackaday": "alas",
    "welladay": "alas",
    "zounds": "good grief",
    "'zounds": "good grief",
    "'swounds": "good grief",
    "'sblood": "good grief",
    "'sdeath": "good grief",
    "gadzooks": "good grief",
    "egad": "good grief",
    "fie": "shame",
    "hark": "listen",
    "gramercy": "thank you",
    "god-den": "good evening",
    "god-a-mercy": "thank God",
    "how now": "what now",
    "adieu": "goodbye",
    "troth": "truth",
    "sooth": "truth",
    "well-a-day": "alas",
}

OLD_VERBS = {
    "spake": "spoke",
    "bespake": "bespoke",
    "holp": "helped",
    "holpen": "helped",
    "drave": "drove",
    "sware": "swore",
    "quoth": "said",
    "hie": "hurry",
    "hied": "hurried",
    "hies": "hurries",
    "tarry": "wait",
    "tarries": "waits",
    "tarried": "waited",
    "tarrying": "waiting",
    "chide": "scold",
    "chides": "scolds",
    "chid": "scolded",
    "chidden": "scolded",
    "chiding": "scolding",
    "smite": "strike",
    "smites": "strikes",
    "smote": "struck",
    "smitten": "struck",
    "swoon": "faint",
    "swoons": "faints",
    "swooned": "fainted",
    "vouchsafe": "grant",
    "vouchsafes": "grants",
    "vouchsafed": "granted",
    "ope": "open",
    "opes": "opens",
    "oped": "opened",
    "hearken": "listen",
    "harken": "listen",
    "wot": "know",
    "wots": "knows",
    "wist": "knew",
    "trow": "believe",
    "cozen": "cheat",
    "cozened": "cheated",
    "cozening": "cheating",
    "beseech": "beg",
    "besought": "begged",
    "beshrew": "curse",
    "descry": "spot",
    "descried": "spotted",
    "shew": "show",
    "shews": "shows",
    "shewed": "showed",
    "shewn": "shown",
    "begat": "fathered",
    "yclept": "called",
    "shent": "scolded",
    "prate": "chatter",
    "prates": "chatters",
    "prating": "chattering",
    "waxed": "grew",
    "bewray": "betray",
    "plighted": "pledged",
    "wrack": "wreck",
}

OLD_NOUNS = {
    "sirrah": "fellow",
    "sirrahs": "fellows",
    "brethren": "brothers",
    "kine": "cows",
    "eyne": "eyes",
    "morrow": "morning",
    "coz": "cousin",
    "knave": "rascal",
    "knaves": "rascals",
    "knavery": "mischief",
    "knavish": "roguish",
    "varlet": "rascal",
    "varlets": "rascals",
    "caitiff": "wretch",
    "caitiffs": "wretches",
    "wench": "girl",
    "wenches": "girls",
    "damsel": "girl",
    "damsels": "girls",
    "swain": "lad",
    "swains": "lads",
    "younker": "youngster",
    "dotard": "old fool",
    "recreant": "coward",
    "liege": "lord",
    "liegeman": "subject",
    "steed": "horse",
    "steeds": "horses",
    "corse": "corpse",
    "corses": "corpses",
    "visage": "face",
    "visages": "faces",
    "vizard": "mask",
    "vizards": "masks",
    "raiment": "clothes",
    "habiliments": "clothes",
    "victuals": "food",
    "physic": "medicine",
    "chirurgeon": "surgeon",
    "guerdon": "reward",
    "welkin": "sky",
    "fardel": "bundle",
    "fardels": "bundles",
    "rood": "cross",
    "shrift": "confession",
    "parle": "talk",
    "puissance": "might",
    "burthen": "burden",
    "burthens": "burdens",
    "burthened": "burdened",
    "murther": "murder",
    "murthers": "murders",
    "murtherer": "murderer",
    "twelvemonth": "year",
    "twelve-month": "year",
    "yesternight": "last night",
    "yestereve": "last evening",
    "sennight": "week",
    "se'nnight": "week",
    "noontide": "noon",
    "behest": "command",
    "behests": "commands",
    "ducat": "coin",
    "ducats": "coins",
    "tidings": "news",
    "nuncle": "uncle",
    "trencher": "plate",
    "trenchers": "plates",
}

OLD_ADJECTIVES = {
    "goodly": "fine",
    "puissant": "mighty",
    "wroth": "angry",
    "afeard": "afraid",
    "malapert": "rude",
    "bootless": "useless",
    "accurst": "accursed",
    "curst": "cursed",
    "blest": "blessed",
    "dreadless": "fearless",
    "twofold": "double",
    "froward": "stubborn",
    "peevish-fond": "silly",
    "unwonted": "unusual",
    "aweary": "weary",
}

GROUPS = {
    "shortened words": (SHORTENED, "words with a letter left out: 'tis, o'er, ne'er, ta'en"),
    "auxiliaries": (AUXILIARIES, "hast, hath, dost, doth, wert, shalt, canst, didst"),
    "pronouns": (PRONOUNS, "thou and thee, thy, thine, ye"),
    "places": (PLACES, "whence, hither, wherefore, whereof, betwixt, unto"),
    "little words": (LITTLE_WORDS, "ere, oft, anon, perchance, nay, methinks"),
    "exclamations": (EXCLAMATIONS, "alack, zounds, fie, how now"),
    "old verbs": (OLD_VERBS, "spake, holp, quoth, hie, tarry, vouchsafe"),
    "old nouns": (OLD_NOUNS, "sirrah, brethren, knave, liege, visage"),
    "old adjectives": (OLD_ADJECTIVES, "goodly, wroth, afeard"),
}
WORDS: dict[str, str] = {old: new for table, _ in GROUPS.values() for old, new in table.items()}

PHRASES = {  # phrases that would come out wrong if they were replaced word by word
    "canst not": "cannot",
    "content thee": "be content",
    "what are thy news": "what is your news",
    "though ne'er so": "though ever so",
    "be ne'er so": "be ever so",
    "ne'er a": "not a",
    "out o' door": "out of doors",
    "i prithee": "please",
    "i pray thee": "please",
    "pray thee": "please",
    "i do beseech you": "please",
    "i do beseech thee": "please",
    "i beseech you": "please",
    "i beseech thee": "please",
    "whence are you": "where are you from",
    "whence are thou": "where are you from",
    "from whence": "from where",
    "from thence": "from there",
    "from hence": "from here",
    "in good troth": "in truth",
    "in good sooth": "in truth",
    "by my troth": "upon my word",
    "o' my troth": "upon my word",
    "good sooth": "in truth",
    "in sooth": "in truth",
    "must needs": "must",
    "needs must": "must",
    "cry you mercy": "beg your pardon",
    "cry thee mercy": "beg your pardon",
    "cry ye mercy": "beg your pardon",
    "ay me": "ah me",
    "for aye": "for ever",
    "an if": "if",
    "god wot": "God knows",
    "i wis": "indeed",
    "fare thee well": "farewell",
    "fare you well": "farewell",
    "fare ye well": "farewell",
    "hark you": "listen",
    "hark thee": "listen",
    "hark ye": "listen",
    "fie on": "shame on",
    "fie upon": "shame on",
    "get thee gone": "be gone",
    "get thee away": "go away",
    "get thee hence": "go away from here",
    "go hence": "go away from here",
    "hie thee": "hurry",
    "hie you": "hurry",
    "fain to": "glad to",
    "as lief": "as soon",
    "these tidings": "this news",
    "those tidings": "that news",
    "tidings are": "news is",
    "a twain": "in two",
    "a twelvemonth": "a year",
    "was wont to": "used to",
    "were wont to": "used to",
    "wert wont to": "used to",
    "wast wont to": "used to",
    "are wont to": "tend to",
    "art wont to": "tend to",
    "am wont to": "tend to",
    "is wont to": "tends to",
    "good even": "good evening",
    "good-morrow": "good morning",
    "the morrow": "the next day",
    "set at naught": "scorn",
    "of yore": "of old",
    "woe is me": "poor me",
    "morrow next": "morrow",
}

# --- verbs: the words that may stand before -est, -eth and 'd -------------------------------------

VERBS = _words(
    """
    abhor abide abound abuse accept accompany account accuse ache act add admire admit adore advance
    advise affect afflict afford aid ail aim alter amaze amend answer appear appoint approach argue arise
    arm array ask aspire assure attain attend avoid awake bait banish bar bare bark be bear beat become
    bed befall befit beg begin behold believe belong bend bereave beseech bestow bet betray bid bind bite
    blame bless bleed blow blush boast bode boil borrow bound bow brag breathe break breed bring bruise
    build burn burst bury buy buzz call cancel care carry cast catch cause cease challenge chance change
    charge charm chase cheat cheer chide choose claim cleave climb cling close clothe come comfort command
    commend commit communicate complain conceal conclude concern condemn confess confound conquer consent
    consider consist consort consume contain contend content control cope corrupt count counterfeit couch
    cover covet crack crave create creep crouch crown cry cure curse cut damn dance dare deal deceive deck
    declare decree deem defend defer defy delay delight deliver demand deny depart depend deprive descend
    deserve desire despair despise destroy detect devise devour die dine dip direct discern discourse
    discover disdain disgrace dishonour dismiss display dispose disturb dive divide do doom doubt draw
    dread dream dress drink drive drop drown dry dwell earn ease eat embrace employ enclose encompass end
    endeavour endure enforce enjoin enjoy enlarge ensnare enter entertain entreat envy err escape esteem
    excel except excuse execute expect express extend face fade fail faint fall fancy fare fast favour
    fawn fear feed feel fetch fight fill find finish fit flatter flee fling flourish flow fly follow
    forbear forbid force forget forgive forsake forswear frame free freeze fret fright frown fry fulfil
    furnish gain gall gape gather gaze get gild give glance gleam glitter glow gnaw go govern grace grant
    grasp graze greet grieve grin grind groan grow guard guess guide hang happen harbour harm harp hasten
    hate haunt have hear heat heave help hew hide hinder hit hold honour hope hover howl hug hum hunt hurl
    hurt imagine impart imprison incline increase infer inflame inform inhabit inherit inquire insult
    intend invite jest join judge jump keep kill kindle kiss kneel knit knock know labour lack lament
    lance languish last laugh lay lead lean leap learn leave lend let level libel lick lie lift light like
    limp linger list listen live load loathe lock lodge long look loose lose love lower lurk lust make mar
    march mark marry marvel match mean measure meddle meet melt mend mention merit mind minister misdoubt
    miss mistake mistrust misuse mix mock moan mount mourn move murder murmur muse name need neglect nod
    note nourish nurse obey object observe obtain occupy offend offer open oppose oppress ordain owe own
    paint pant pardon part pass pause pay peep peer perceive perform perish permit persuade pierce pine
    pinch pity place plague plant play plead please plot pluck point ponder possess pour pout practise
    praise prate pray preach prefer prepare presage present preserve press presume pretend prevail prick
    prize proceed proclaim procure profess profit promise promote prompt protect prove provide provoke
    publish pull punish purchase purge purpose pursue push put quake quarrel quench question quit rage
    rail raise range ransom reach read reap rebuke receive reckon refuse regard reign rejoice relate
    release relent rely remain remember remove render renounce rent repair repay repent repine reply
    report repose reprove require rescue resemble reserve resist resolve respect rest restore restrain
    retain return revenge reverence revive reward ride ring rise roar rob roll root rouse rule run rush
    sail salute save savour say scatter scold scorn scratch seal search season see seek seem seize sell send
    serve set sever shake shame share shed shelter shield shift shine shoot show shrink shroud shrug shun
    shut sigh sing sink sit slander slay sleep slide slip smell smile smite smoke snarl snatch sob soar
    soothe sort sound sow spare speak speed spend spill spit split spoil sport sprawl spread spring spurn
    spy stain stamp stand stare starve stay steal step stick sting stink stir stoop stop strain stray
    stretch strew strike string strip strive strut stumble submit suck sue suffer suffice sunder suppose
    suppress surmount survive suspect sustain swear sweat sweep swell swim swing take talk tame tarry
    taste taunt teach tear tell tempt tend term terrify thank thaw thicken think threaten thrive throb
    throw thrust tickle tie torment toss touch toy trace trade train transgress travel tread treat tremble
    trespass trick triumph trouble trow trudge trust try turn twine understand undertake undo unfold unrip
    urge use usurp utter value vanish vary vaunt venture vex view visit vomit vow wag wage wail wait wake
    walk wander want war warm warn warrant wash waste watch wax weaken wear weary wed weep weigh welcome
    wet whet whine whip whisper will win wing wink wish wither wonder woo work worship wound wrap wreck
    wring wrong write yawn yearn yield severe fell
    """
)
PAST = _words(
    """
    ate bade became began begot beheld bid bit blew bore bought bound brake bred broke brought built burnt
    came caught chid chose clung cut did drank drew drove dwelt fed fell felt fled flew flung forgave
    forgot forsook fought found froze gave got grew had heard held hid holp hurt kept knelt knew laid lay
    led left lent let lit lost made meant met misled mistook overheard overthrew overcame paid put ran
    rang read rent rode rose said sang sank sat saw sent set shed shook shone shot showed shut slept slew
    slid smote sold sought spake spent split spoke sprang spread spun stole stood stuck stung struck
    strove swam swept swore taught thought threw told took tore understood undid upheld was went wept were
    withdrew withheld woke won wore wove wrote wrought wrung
    """
)
ADJECTIVES = _words(  # if one of them is a verb too, it counts as a verb only beside "thou"
    """
    ancient base bitter bold brave bright brief calm chief clean clear close cold common cool covert coy
    cruel curst damned dark dead dear deep dim dire dry dull empty fair faithful false fast fearful few
    fierce fine firm fit foul free fresh full gay gentle glad grand grave great happy hard harsh heavy
    high hot humble idle keen kind large late lean lewd light like likely lofty long loud low lusty mad
    mean meek mere merry mild mighty mortal narrow near neat new noble old open pale perfect plain
    pleasant poor precious pretty proud pure quick quiet rank rare ready rich ripe rough rude sad safe
    salt secret sharp short sick simple slow small smooth soft solemn sore sound sour stale stern stiff
    still stout straight strange strong subtle sudden sure sweet swift tall tame tender thick thin true
    ugly vain vile violent warm weak weary wet white wicked wide wild wise worthy wretched young
    """
)
NOT_VERBS = _words(  # words that end in -est and only look like a verb's form
    """
    arrest attest behest bequest best breast chest conquest contest crest detest digest dishonest divest
    earnest forest forrest guest harvest honest immodest incest infest ingest inquest interest invest jest
    lest manifest modest molest nest pest priest protest quest request rest suggest tempest test unrest
    unblest vest west wrest zest abreast beest prest drest deforest reinvest everest trieste modernest
    """
)
OWN_FORMS = {"be": "are", "ha": "have", "do": "do", "holp": "helped", "spake": "spoke", "chid": "scolded"}
OWN_FORMS |= {
    "bad": "bade",
    "tarry": "wait",
    "wil": "will",
    "smite": "strike",
    "smote": "struck",
    "trow": "believe",
}
OWN_FORMS |= {
    "mad": "made",
    "chide": "scold",
    "beseech": "beg",
    "wax": "grow",
    "prate": "chatter",
    "brake": "broke",
}
THIRD = {"have": "has", "do": "does", "go": "goes", "be": "is", "say": "says"}
IRREGULAR_D = {  # 'd after verbs that are irregular today
    "catch": "caught",
    "digg": "dug",
    "creep": "crept",
    "build": "built",
    "shak": "shaken",
    "fee": "paid",
    "sayd": "said",
}
NOT_D = _words(  # before 'd: short for had or would
    """
    i you he she it we they who that this there here what how where why when thou ye one everyone someone
    anyone nobody everybody somebody anybody these those mom dad ma ok
    """
)

# --- how rules look at a text ---------------------------------------------------------------------

A = "['’]"
GAP = r"(?:[ \t]+|[ \t]*\r?\n[ \t]*)"  # between words of one sentence; a blank line ends a speech
LETTER = r"[^\W\d_]"
REACH = 200  # characters that rules look at on either side: a sentence, or a good part of one


def _cased(old: str, new: str) -> str:
    """`new` in the case of `old`: thou, Thou, THOU. A single letter (I, O) does not count as all capitals."""
    letters = [c for c in old if c.isalpha()]
    if len(letters) > 1 and all(c.isupper() for c in letters):
        return new.upper()
    if letters and letters[0].isupper():
        return new[:1].upper() + new[1:]
    return new


def _lowered(word: str) -> str:
    """A word in lower case, because it no longer begins its sentence; I and words in capitals stay."""
    return (
        word
        if word == "I" or word.startswith(("I'", "I’")) or word[1:2].isupper()
        else word[:1].lower() + word[1:]
    )


def _without_i(match: re.Match[str], new: str) -> str:
    """`new` in place of a phrase that begins with I; it gets a capital only where a sentence begins."""
    if match[0].isupper() and len(match[0]) > 1:
        return new.upper()
    before = match.string[max(0, match.start() - REACH) : match.start()].rstrip(" \t\"'’“‘(")
    opens = not before or before[-1] in ".?!\n"
    return _cased("I" if opens and match[0][0] == "I" else "i", new)


def _spelt(words: Iterable[str]) -> str:
    """A pattern for any of these words, longest first. A blank in them matches any blanks within a line."""
    ordered = sorted(words, key=lambda word: (-len(word), word))
    return "|".join(re.escape(word).replace("'", A).replace("\\ ", "[ \t]+") for word in ordered)


def _plain_key(found: str) -> str:
    return re.sub(r"[ \t]+", " ", found.lower().replace("’", "'"))


def _whole(pattern: str) -> re.Pattern[str]:
    """A pattern that matches whole words, in any case."""
    return re.compile(rf"(?<!\w)(?:{pattern})(?!\w)", re.IGNORECASE)


def _rule(
    pattern: re.Pattern[str], new: Callable[[re.Match[str]], str | None]
) -> Callable[[str], Iterator[Change]]:
    """A rule's `find`. new: returns what replaces a match, or None if it stays."""

    def find(text: str) -> Iterator[Change]:
        for match in pattern.finditer(text):
            made = new(match)
            if made is not None and made != match[0]:
                yield match.start(), match.end(), made

    return find


def _table(words: dict[str, str]) -> Callable[[str], Iterator[Change]]:
    def new(match: re.Match[str]) -> str:
        key = _plain_key(match[0])
        return _without_i(match, words[key]) if key.startswith("i ") else _cased(match[0], words[key])

    return _rule(_whole(_spelt(words)), new)


def _before(match: re.Match[str]) -> str:
    """The sentence up to the match; at most its last REACH characters."""
    before = match.string[max(0, match.start() - REACH) : match.start()]
    cut = max((m.end() for m in re.finditer(r"[.?!](?=\s)|\n[ \t\r]*\n", before)), default=0)
    return before[cut:]


def _after(match: re.Match[str]) -> str:
    """What follows the match, up to and including the mark that ends the sentence."""
    after = match.string[match.end() : match.end() + REACH]
    end = re.search(r"[.?!;]|:(?=\s)|\n[ \t\r]*\n", after)
    return after[: end.end()] if end else after


def _word_before(match: re.Match[str]) -> str:
    found = re.search(rf"([\w'’-]+){GAP}$", match.string[max(0, match.start() - 60) : match.start()])
    return found[1].lower().replace("’", "'") if found else ""


def _word_after(match: re.Match[str]) -> str:
    found = re.match(rf"{GAP}([\w'’-]+)", match.string[match.end() : match.end() + 60])
    return found[1].lower().replace("’", "'") if found else ""


def _starts_clause(match: re.Match[str]) -> bool:
    """Whether the match begins the text or follows a punctuation mark."""
    before = match.string[max(0, match.start() - 60) : match.start()].rstrip(" \t\r\n\"'’“‘(")
    return match.start() == 0 or not before or before[-1] in ".?!;:,-—–"


THOU = re.compile(r"(?<!\w)(?:thou|thee|thyself)(?!\w)", re.IGNORECASE)
ADVERBS = {
    "not",
    "never",
    "now",
    "still",
    "so",
    "ever",
    "thus",
    "only",
    "here",
    "there",
    "dearly",
    "well",
    "truly",
}
ADVERBS |= {"yet", "but", "always", "too", "even", "that", "which", "who", "also", "once"}


def _beside_thou(match: re.Match[str]) -> bool:
    """Whether "thou" stands next to a verb, or one adverb away from it."""
    before = re.findall(r"[\w'’-]+|[^\w\s]", _before(match)[-60:].lower())
    if before[-1:] == ["thou"] or (before[-2:-1] == ["thou"] and before[-1] in ADVERBS):
        return True
    return _word_after(match) == "thou"


# --- verbs in -est, -eth, 'd ----------------------------------------------------------------------


def _candidates(stem: str) -> list[str]:
    """What a verb may have been before it got its ending: lov → love, deni → deny, runn → run."""
    found = [stem, stem + "e"]
    if stem.endswith("i"):
        found += [stem[:-1] + "y"]
    if len(stem) > 2 and stem[-1] == stem[-2]:
        found += [stem[:-1]]
    return found


def _known(stem: str) -> str | None:
    found = _candidates(stem)
    return next(
        (verb for verb in found if verb in VERBS), next((verb for verb in found if verb in PAST), None)
    )


def _guessed(stem: str) -> str:
    """The plain form of a verb that is not in any list, guessed by the rules of English spelling."""
    if stem.endswith("i"):
        return stem[:-1] + "y"
    if re.search(r"([bdgmnprt])\1$", stem):
        return stem[:-1]
    if re.search(r"([vuz]|[^s]s|[aeiou]c|[nr]c|dg|[aeiou]k|[^aeiou]l)$", stem) and not re.search(
        r"(oo|ee|ea|ai)k$|(l|r)l$|[aeiouy]zz$", stem
    ):
        return stem + "e"
    return stem


def _is_participle(stem: str) -> bool:
    return len(stem) > 4 and stem.endswith("ed")


def _second_person(match: re.Match[str]) -> str | None:
    """speakest, hold'st, gavest, call'dst → speak, hold, gave, called; dear'st → dearest."""
    stem, ending = match["stem"], match["ending"].lower().replace("’", "'")
    low = stem.lower()
    whole = low + ending
    if whole in WORDS or whole in NOT_VERBS or whole in ("let'st", "midst", "amidst"):
        return _cased(stem, "let") if whole == "let'st" else None
    beside = _beside_thou(match)
    if ending == "dst":  # toldst, lovedst
        return match[0][:-2]
    if ending == "'dst":
        if re.search(r"^(?:un)?[^aeiou]+[aeiou][bdgmnpt]$", low):
            stem += stem[-1]
        return stem + ("d" if low.endswith("e") else "ED" if stem.isupper() and len(stem) > 1 else "ed")
    adjective = any(word in ADJECTIVES for word in _candidates(low))
    if (
        ending == "'st"
        and not beside
        and (adjective or (_known(low) is None and re.search(r"..(ful|ous|[^p]ied|[mk]ed)$", low)))
    ):
        if adjective and not low.endswith(("ed", "ful", "ous")):
            return stem + ("EST" if stem.isupper() and len(stem) > 1 else "est")
        return _cased(stem, "most " + low)
    known = OWN_FORMS.get(low) or _known(low)
    if ending in ("est", "st"):
        if known is None or (adjective and not beside):
            guess = (
                beside
                and _word_before(match) == "thou"
                and ending == "est"
                and not adjective
                and len(low) > 3
            )
            known = _guessed(low) if guess and not match[0][0].isupper() else None
        if known is None:
            return None
    elif known is None:
        known = low if _is_participle(low) else _guessed(low)
    return _cased(match[0], OWN_FORMS.get(known, known))


def _thou_asks(match: re.Match[str]) -> str | None:
    """lean'st thou there? → do you lean there? Past forms are left to the next rules."""
    stem = match["stem"].lower()
    if stem + match["ending"].lower().replace("’", "'") in WORDS.keys() | NOT_VERBS or not _asks(match):
        return None
    verb = next((verb for verb in _candidates(stem) if verb in VERBS), None)
    if verb is None or not (match["wh"] or _starts_clause(match)):
        return None
    verb = OWN_FORMS.get(verb, verb) if verb != "be" else verb
    first = f"{match['wh']} do" if match["wh"] else _cased(match["verb"], "do")
    return _in_capitals(match, f"{first} you{match['negative'] or ''} {verb}")


def _with_s(verb: str) -> str:
    if verb in THIRD:
        return THIRD[verb]
    if re.search(r"(s|sh|ch|x|z|[^aeiou]o)$", verb):
        return verb + "es"
    if re.search(r"[^aeiou]y$", verb):
        return verb[:-1] + "ies"
    return verb + "s"


NOT_ETH = {
    "teeth",
    "elizabeth",
    "macbeth",
    "seth",
    "beth",
    "meth",
    "lambeth",
    "nazareth",
    "sabbeth",
    "shibboleth",
}
PLURALS = {"i", "we", "they", "you", "ye", "thou"}


def _third_person(match: re.Match[str]) -> str | None:
    """speaketh, trieth, passeth → speaks, tries, passes; a name or an ordinal stays."""
    stem = match["stem"].lower()
    if stem + "eth" in NOT_ETH or stem + "eth" in WORDS:
        return None
    known, before = _known(stem), _word_before(match)
    if known in PAST and known not in VERBS:
        known = None
    if known is None:
        if (
            before not in ("he", "she", "it", "that", "who", "which")
            or match[0][0].isupper()
            or stem[-1:] == "i"
        ):
            return None
        known = _guessed(stem)
    known = OWN_FORMS.get(known, known) if known != "be" else known
    return _cased(match[0], known if before in PLURALS else _with_s(known))


def _participle(match: re.Match[str]) -> str | None:
    """deceiv'd → deceived, deni'd → denied; I'd and who'd stay."""
    stem = match["stem"]
    low = stem.lower()
    if low in NOT_D or len(low) < 3 or not re.search("[aeiouy]", low):
        return None
    if low in IRREGULAR_D:
        return _cased(match[0], IRREGULAR_D[low])
    ending = "d" if low.endswith("e") else "ed"
    return stem + (ending.upper() if stem.isupper() else ending)


# --- words that must be read with their neighbours ------------------------------------------------

NOT_BEFORE_VERB = _words(
    """
    the a an this his her their its our your my mine thy thine by of with in no some any such fine black
    liberal state modern for from into and nor will would to may can might shall should must not
    """
)


def _art(match: re.Match[str]) -> str | None:
    """Only the verb: "thou art", "art thou"; "the art of war" stays."""
    before, after = _word_before(match), _word_after(match)
    if match.string[match.end() : match.end() + 1] in ("'", "’", "-"):
        return None
    if before in ("thou", "thyself") or after == "thou" or before == "who":
        return _cased(match[0], "are")
    said = _before(match)
    touched = re.search(rf"[,;:]\s*$|{GAP}$", said)
    if before in ("you", "ye") and re.fullmatch("not|a|an|the|my|so|too|no|but|as|thus|now", after):
        return _cased(match[0], "are")
    if (
        touched
        and THOU.search(said)
        and (before not in NOT_BEFORE_VERB or (before == "and" and after in AFTER_ART))
    ):
        return _cased(match[0], "are")
    if after == "thus" or (before == "that" and after in ("so", "too", "not")):
        return _cased(match[0], "are")
    if _starts_clause(match) and after in AFTER_ART and _after(match).endswith("?") and "\n" not in match[0]:
        return _cased(match[0], "are you")
    return None


AFTER_ART = {
    "not",
    "going",
    "so",
    "too",
    "gone",
    "come",
    "here",
    "there",
    "mad",
    "dead",
    "sure",
    "yet",
    "still",
    "a",
    "as",
}
AFTER_ART |= {"the", "my", "in", "afraid", "now", "thus", "more", "most", "worthy", "thyself"}


def _wilt(match: re.Match[str]) -> str | None:
    """Only the auxiliary: "thou wilt", "wilt thou", "wilt not"; "will wilt" stays."""
    before, after = _word_before(match), _word_after(match)
    if before in ("thou", "who") or after in ("thou", "not"):
        return _cased(match[0], "will")
    if THOU.search(_before(match)) and before not in NOT_BEFORE_VERB - {"and"}:
        return _cased(match[0], "will")
    return None


NOT_OWNED = _words(  # words that follow "thine" where it means "yours"
    """
    and or nor but if as at in on of to for from by with is are was were be being been has had have hath
    doth does do shall will would can could may might must not no alone i he she we they it thou you who
    which that this than then too also own? when where how so though yet ever never first again still
    enough already more
    """
)
MINE_BEFORE = _spelt(  # "mine" means "my" only before these, and not in "a friend of mine is here"
    _words("""
    own eye eyes ear ears eyeballs honour honours enemy enemies arm arms armour uncle uncles aunt host
    hostess heart heir heirs hand hands head heels hair age oath oaths office anger answer adversary
    adversaries ancestor ancestors innocence innocency issue intent intents image opinion art ease end
    edge act acts emulation honesty honest hour hours house ire eldest only integrity instrument ill
    inward infant humble hearing hope hopes oratory execution affairs affection affections advice old
    ancient acquaintance action actions arrows apprehension appetite accuser accusers
    """)
)


def _thine(match: re.Match[str]) -> str | None:
    """thine → your before a noun ("thine eyes", "of thine own"); by itself it becomes the table's "yours"."""
    after = _word_after(match)
    if not after or after in NOT_OWNED or (_word_before(match) == "of" and after != "own"):
        return None
    return _cased(match[0], "your") if after[0] in "aeiouh" else None


def _yonder(match: re.Match[str]) -> str:
    """yonder window → that window, yonder walls → those walls, yonder he comes → there he comes."""
    after = _word_after(match)
    if match.string[match.end() : match.end() + 2].lower() in ("'s", "’s") or after in THERE:
        return _cased(match[0], "there")
    if not after or after in OVER_THERE:
        return _cased(match[0], "over there")
    many = re.search(r"[^su']s$", after)
    return _cased(match[0], "those" if many else "that")


THERE = _words(
    "comes is are stands stand lies goes he she they it come shines sits was were where i we methinks"
)
OVER_THERE = _words("that and in on at to by from with as arrested")


def _withal(match: re.Match[str]) -> str:
    return _cased(match[0], "also" if _word_before(match) in ("and", "yet", "even", "still", "") else "with")


SUPPOSED = _words("if as though although wish would that were unless an")


def _twere(match: re.Match[str]) -> str:
    return _cased(match[0], "it were" if _word_before(match) in SUPPOSED else "it would be")


def _writ(match: re.Match[str]) -> str | None:
    """Only the verb: "holy writ" and a lawyer's writ stay."""
    before = _word_before(match)
    if before in _words("have has had hath hast is are was were be been being so am"):
        return _cased(match[0], "written")
    if before in _words("i he she you thou we they who"):
        return _cased(match[0], "wrote")
    return None


def _marry(match: re.Match[str]) -> str | None:
    """Only the exclamation, before a punctuation mark: "Marry, sir"; "to love, marry, and live" stays."""
    before = match.string[max(0, match.start() - 60) : match.start()]
    if match.string[match.end() : match.end() + 1] not in (",", "!", ";"):
        return None
    opens = not before.strip() or re.search(r"[.?!:;][\"'’)]?\s+['‘“\"]?$|(^|\n)[ \t]*$|--$", before)
    after_stop = re.search(r"[.?!:;]\s+$", before)
    answers = re.search(r"\b(?:ay|aye|yes|why|nay|no|yea|o|what|well),[ \n]$", before, re.IGNORECASE)
    return _cased(match[0], "indeed") if answers or after_stop or (opens and match[0][0].isupper()) else None


def _of(match: re.Match[str]) -> str:
    return _cased(match[0], "on" if _word_after(match) == "my" else "of")


CLITICS = {"rt": "you're", "art": "you're", "lt": "you'll", "ll": "you'll", "wilt": "you'll", "ldst": "you'd"}
CLITICS |= {"dst": "you'd", "d": "you'd", "ld": "you'd", "st": "you've", "re": "you're", "ve": "you've"}


def _clitic(match: re.Match[str]) -> str:
    """thou'rt → you're; an ending that is not known stays."""
    made = CLITICS.get(match["end"].lower(), f"you'{match['end']}").replace("'", match["sign"])
    return _cased(match[0], made)


ITS_N = _words("in upon open done seen then when on an been even")  # elsewhere n't is short for "not"


def _it(match: re.Match[str]) -> str | None:
    """is't, do't, for't → is it, do it, for it; isn't and don't stay."""
    word = match["word"]
    low = word.lower()
    if low.endswith("n") and low not in ITS_N and low not in VERBS:
        return None
    capitals = len(word) > 1 and word.isupper()
    new = {"on": "of", "an": "if", "ha": "have"}.get(low)
    return f"{_cased(word, new) if new else word} {'IT' if capitals else 'it'}"


# --- phrases --------------------------------------------------------------------------------------

CLAUSES = _words("are will have can do may find get were that is was not enjoy")  # after "I pray you"


def _pray(match: re.Match[str]) -> str | None:
    """I pray you, pray thee → please; "I pray you are well" and "to pray you" stay."""
    if _word_after(match) in CLAUSES or not (match["i"] or _starts_clause(match)):
        return None
    return _without_i(match, "please") if match["i"] else _cased(match[0], "please")


ORDERS = (VERBS | {"beware"}) - _words("will have do dare say need")
ASKING = _words("not art hast shalt wilt dost canst didst wert wouldst")


def _order(match: re.Match[str]) -> str | None:
    """Go thou → go, if it is not a question."""
    if match["verb"].lower() not in ORDERS or not _starts_clause(match) or _asks(match):
        return None
    if _word_after(match) in ASKING:
        return None
    return match["verb"]


def _reflexive(match: re.Match[str]) -> str | None:
    """get thee to bed, sit thee down → get to bed, sit down; get thee a wife → get yourself a wife."""
    if match["verb"].lower() == "get" and _word_after(match) in ("a", "an", "some", "another", "the"):
        return f"{match['verb']} yourself"
    if match["verb"].lower() == "stay" and _word_after(match) in ("not",):
        return None
    return match["verb"]


def _left_out(match: re.Match[str]) -> str | None:
    """Dost think so? → Do you think so? Only where a verb or "not" follows at once."""
    after = _word_after(match)
    if not (_starts_clause(match) and _asks(match) and (after == "not" or after in VERBS or after in PAST)):
        return None
    verb = match[0].lower()
    return _cased(match[0], f"{WORDS.get(verb, 'will')} you")


AGREEING = {"hath": "have", "doth": "do", "hast": "have", "dost": "do"}
AGREEING |= {"was": "were", "is": "are", "has": "have", "does": "do"}  # these only after "thou"


def _agreement(match: re.Match[str]) -> str | None:
    """The plain form after I, you, we and they: thou is → you are, they hath → they have."""
    verb = match["verb"].lower()
    if verb in ("was", "is", "has", "does") and match["subject"].lower() != "thou":
        return None
    return match[0][: match.start("verb") - match.start()] + _cased(match["verb"], AGREEING[verb])


def _perfect(match: re.Match[str]) -> str:
    """is come, are fled → has come, have fled."""
    new = {"is": "has", "am": "have", "are": "have", "was": "had", "were": "had"}
    return _cased(match["be"], new[match["be"].lower()])


DOUBLE = (
    "better|worse|nearer|braver|harder|softer|richer|sweeter|fairer|stronger|wider|sharper|larger|heavier"
)
DOUBLE += "|unkindest|best|worst|boldest|bravest|rarest|highest|dearest|richest|heaviest"

# --- questions and negatives ----------------------------------------------------------------------

MAIN = _words(
    """
    know/knew think/thought see/saw hear/heard say/said come/came go/went love/loved like/liked mean/meant
    want/wanted believe/believed speak/spoke care/cared doubt/doubted fear/feared hate/hated stand/stood
    understand/understood live/lived look/looked feel/felt find/found weep/wept sleep/slept tell/told
    remember/remembered forget/forgot seek/sought take/took bring/brought give/gave keep/kept hold/held
    lie/lay laugh/laughed wait/waited stay/stayed follow/followed trust/trusted dream/dreamed
    become/became dwell/dwelt call/called desire/desired deny/denied deserve/deserved leave/left
    lack/lacked mark/marked perceive/perceived breathe/breathed
    """
)
PAIRS = sorted(pair.split("/") for pair in MAIN)
BASES = {base: ("do", base) for base, _ in PAIRS}
SINGULARS = {_with_s(base): ("does", base) for base, _ in PAIRS}
PASTS = {past: ("did", base) for base, past in PAIRS}
FORMS = BASES | SINGULARS | PASTS
NOT_NEGATED = (
    r"(?!\s+(?:only|just|merely|simply|because|one|a|an|as|even|unlike|least|by|too|so much|yet|from)\b)"
)
OBJECTS = "me|him|her|them|it|us|you|thee|this|that"
WH = "what|how|why|where|when|whom|wherefore|whence|whither|from where"


def _in_capitals(match: re.Match[str], made: str) -> str:
    return made.upper() if len(match[0]) > 4 and match[0].isupper() else made


def _asks(match: re.Match[str]) -> bool:
    return _after(match).endswith("?")


LOVE_YOU = _words("so too more all both enough")
SEE_YOU = _words(
    "tomorrow later soon there then again at in on around next tonight back guys for if after before"
)
TELLING = _words("said thought told saw heard left")  # "Well?" said he; left you


def _question(match: re.Match[str]) -> str | None:
    """know you not, what say you → do you not know, what do you say; only in questions."""
    verb, subject, wh = match["verb"].lower(), match["subject"], match["wh"]
    you = subject.lower() in ("you", "thou", "ye")
    helper, base = FORMS[verb]
    if not _asks(match) or (helper == "do" and subject.lower() in SINGULAR) or (helper == "does" and you):
        return None
    if wh:
        if not _starts_clause(match) and _word_before(match) not in ("and", "but", "or", "then", "for"):
            return None
        if base in ("like", "lie") and not you:
            return None
    else:
        after = _word_after(match)
        if not you or not _starts_clause(match) or verb in SINGULARS:
            return None
        if verb in TELLING and not match["negative"]:
            return None
        if not match["negative"] and (
            not after or (verb == "see" and after in SEE_YOU) or (verb in BARE_LOVE and after in LOVE_YOU)
        ):
            return None  # See you tomorrow? Love you too?
    if wh and base == "say":
        wh = _cased(wh, "what")  # how say you?
    first = f"{wh} {helper}" if wh else _cased(match["verb"], helper)
    return _in_capitals(match, f"{first} {subject}{match['negative'] or ''} {base}")


BARE_LOVE = _words("love like hate want trust")
NOUNS_TOO = _words("lies loves looks fears doubts dreams marks calls")
SINGULAR = _words("he she it")
PLURAL = _words("i you we they ye thou")


def _negative(match: re.Match[str]) -> str | None:
    """I know not, he knows me not → I do not know, he does not know me."""
    verb, subject = match["verb"].lower(), (match["subject"] or "").lower()
    helper, base = FORMS[verb]
    if not subject and not (
        (helper == "does" and verb not in NOUNS_TOO) or verb in ("knew", "came", "spoke", "loved")
    ):
        return None
    if (helper == "does" and subject in PLURAL) or (helper == "do" and subject in SINGULAR):
        return None
    if helper == "do" and _word_before_subject(match) in AUXILIARY:
        return None  # "did you speak not", "shall we go not"
    after = match.string[match.end() : match.end() + REACH]
    if re.match(r"\s+to\b", after) and base not in ("know", "care", "come", "go"):
        return None
    if base in ("think", "believe") and not re.match(r"\s+\w", after):
        return None  # "I think not."
    thing = f" {match['object']}" if match["object"] else ""
    start = match[0][: match.start("verb") - match.start()]
    return _in_capitals(match, f"{start}{_cased(match['verb'], helper)} not {base}{thing}")


AUXILIARY = _words("do did does shall will would can could may might must should let have had")


def _word_before_subject(match: re.Match[str]) -> str:
    return _word_before(match) if match["subject"] else ""


COMMON = set(BASES) | _words(
    """
    mock ask touch dally trouble blame deceive tempt wrong fly swear grieve talk stir move shed break curse
    lose mistake despise condemn stop fret start interrupt wonder shame vex
    """
)
COMMON -= _words("deserve want lie like mean become understand")
NOT_ORDERS = _words("will have do be need dare hope guess want waste last fast like mean deserve say")
FORBIDDEN = COMMON | (VERBS - NOT_ORDERS)
ASKED = _words("know see saw hear heard think perceive")


def _forbid(match: re.Match[str]) -> str | None:
    """speak not, fear you not → do not speak, do not fear."""
    if match["verb"].lower() not in FORBIDDEN or not _starts_clause(match) or _asks(match):
        return None
    before = match.string[max(0, match.start() - REACH) : match.start()].rstrip()
    if match["verb"].lower() not in COMMON and before and before[-1] not in ".?!;:":
        return None  # "who toil, spin not, …" is a statement
    if match["subject"] and match["verb"].lower() in ASKED:
        return None  # a question whose question mark is far away
    if match["verb"].lower() == "let" and match["object"] and match["object"].lower() in ("us", "it"):
        return None  # let us not go
    follows = match.string[match.end() : match.end() + REACH]
    if re.match(r"\s+to\b", follows) and match["verb"].lower() not in ("come", "go", "seek"):
        return None
    thing = f" {match['object']}" if match["object"] else ""
    return _in_capitals(match, f"{_cased(match['verb'], 'do')} not {_lowered(match['verb'])}{thing}")


# --- slang: friendly, and never rude --------------------------------------------------------------

GREETINGS = {
    "good morning": "hey there",
    "good evening": "hey there",
    "good day": "hiya",
    "good night": "night night",
    "what now": "what's up",
    "farewell": "see ya",
    "goodbye": "see ya",
    "be gone": "beat it",
    "thank you": "cheers",
    "i beg your pardon": "sorry, my bad",
    "good grief": "holy moly",
    "alas": "oh no",
    "upon my word": "no kidding",
    "in truth": "for real",
    "indeed": "for sure",
    "yes": "yeah",
    "listen": "listen up",
}
PEOPLE = {
    "my good lord": "boss",
    "my gracious lord": "boss",
    "my noble lord": "boss",
    "my dear lord": "boss",
    "my lord": "boss",
    "my lords": "folks",
    "your majesty": "chief",
    "your highness": "chief",
    "your grace": "chief",
    "your worship": "chief",
    "gentlemen": "guys",
    "gentleman": "guy",
    "friend": "mate",
    "friends": "mates",
    "cousin": "cuz",
    "brother": "bro",
    "brothers": "bros",
    "sister": "sis",
    "father": "dad",
    "mother": "mum",
    "children": "kids",
    "child": "kid",
    "fellow": "dude",
    "fellows": "dudes",
    "sir": "man",
    "sirs": "guys",
    "madam": "miss",
    "villain": "jerk",
    "villains": "jerks",
    "rascal": "scamp",
    "rascals": "scamps",
    "coward": "chicken",
    "cowards": "chickens",
}
RELAXED_WORDS = {
    "very": "really",
    "excellent": "awesome",
    "splendid": "awesome",
    "marvellous": "awesome",
    "perhaps": "maybe",
    "money": "cash",
    "food": "grub",
    "angry": "mad",
    "weary": "knackered",
    "drunk": "tipsy",
    "horse": "ride",
    "quickly": "real quick",
    "i think": "I reckon",
    "i thought": "I figured",
}
SHORT_FORMS = {
    "i do not know": "I dunno",
    "i am not": "I ain't",
    "it is not": "it ain't",
    "is not": "isn't",
    "are not": "aren't",
    "do not": "don't",
    "does not": "doesn't",
    "did not": "didn't",
    "will not": "won't",
    "cannot": "can't",
    "would not": "wouldn't",
    "should not": "shouldn't",
    "it is": "it's",
    "i am": "I'm",
    "you are": "you're",
    "i will": "I'll",
    "you will": "you'll",
    "let us": "let's",
    "going to": "gonna",
    "want to": "wanna",
    "give me": "gimme",
    "because": "'cause",
    "them": "'em",
}
NOT_CUT = {"it is", "i am", "you are", "i will", "you will"}  # they stay at the end of a clause: "so it is."
NOT_AFTER_GOING = NOT_BEFORE_VERB | {
    "him",
    "me",
    "us",
    "them",
    "it",
    "you",
    "bed",
    "prison",
    "church",
    "that",
}


def _short(match: re.Match[str]) -> str | None:
    """The short form; "going to" is shortened only before a verb."""
    key, after = _plain_key(match[0]), _word_after(match)
    if (key == "going to" and (not after or after in NOT_AFTER_GOING)) or (key in NOT_CUT and not after):
        return None
    if (
        key == "going to"
        and re.match(r"\s+[A-Z]", match.string[match.end() : match.end() + REACH])
        and not match[0].isupper()
    ):
        return None  # going to London
    if key == "let us" and not _starts_clause(match):
        return None
    new = SHORT_FORMS[key]
    if match[0].startswith("i "):
        new = "i" + new[1:]  # a small i in the text stays small
    return _cased(match[0], new)


# --- the rules, in their order --------------------------------------------------------------------

_FORM = "|".join(sorted(FORMS, key=len, reverse=True))
_MINE = re.compile(rf"(?<!\w)mine(?={GAP}(?:{MINE_BEFORE})(?!\w))", re.IGNORECASE)

RULES: tuple[Rule, ...] = (
    Rule(
        "thou'rt",
        "thou with a verb in one word: thou'rt → you're, thou'lt → you'll",
        _rule(re.compile(rf"(?<!\w)(?:thou|ye)(?P<sign>{A})(?P<end>\w+)", re.I), _clitic),
    ),
    Rule(
        "it at the end",
        "is't, do't, for't, on't → is it, do it, for it, of it",
        _rule(re.compile(rf"(?<!\w)(?P<word>{LETTER}+){A}t(?!\w)", re.I), _it),
    ),
    Rule(
        "it alone",
        "a 't that stands alone → it",
        _rule(re.compile(rf"(?<![\w'’]){A}t(?![\w'’])", re.I), lambda m: "it"),
    ),
    Rule(
        "'twere", "'twere → it would be; after if, as and wish: it were", _rule(_whole(f"{A}twere"), _twere)
    ),
    Rule(
        "have",
        "ha' → have",
        _rule(
            re.compile(
                rf"(?<![\w'’])ha{A}(?=[ \t]+(?:a|an|the|no|it|you|thee|done|been|means|my|your)(?!\w))", re.I
            ),
            lambda m: _cased(m[0], "have"),
        ),
    ),
    Rule(
        "in the",
        "i' the → in the",
        _rule(
            re.compile(
                rf"(?<![\w'’])i{A}(?=[ \t]+(?:the|th{A}|faith|my|your|thy|his|her|our|this|that)(?!\w))", re.I
            ),
            lambda m: _cased(m[0], "in"),
        ),
    ),
    Rule(
        "of the",
        "o' the → of the; o' my → on my",
        _rule(re.compile(rf"(?<![\w'’-])o{A}(?=\s+\w)", re.I), _of),
    ),
    Rule(
        "over",
        "o'erlook → overlook",
        _rule(re.compile(rf"(?<!\w)o{A}er(?=\w)", re.I), lambda m: _cased(m[0], "over")),
    ),
    Rule(
        "the",
        "th' → the",
        _rule(
            re.compile(rf"(?<![\w'’])th{A}(?P<gap>\s*)(?=\w)", re.I),
            lambda m: _cased(m[0], "the") + (m["gap"] or " "),
        ),
    ),
    Rule(
        "art",
        "the verb art: thou art → you are; the noun stays",
        _rule(_whole("art"), _art),
    ),
    Rule(
        "you left out",
        "a question without its subject: Dost think so? → Do you think so?",
        _rule(_whole("dost|hast|canst|wilt|didst|shalt|wouldst|couldst|hadst"), _left_out),
    ),
    Rule(
        "wilt",
        "the auxiliary wilt: thou wilt → you will; flowers that wilt stay",
        _rule(_whole("wilt"), _wilt),
    ),
    Rule(
        "thou asks",
        "lean'st thou there, lovest thou him → do you lean there, do you love him: in questions only",
        _rule(
            re.compile(
                rf"(?<!\w)(?:(?P<wh>{WH}) )?(?P<verb>(?P<stem>{LETTER}+?)(?P<ending>{A}st|est)) thou"
                r"(?P<negative> not)?(?![\w'’])",
                re.I,
            ),
            _thou_asks,
        ),
    ),
    Rule(
        "second person",
        "verbs in -est and -'st: speakest, hold'st → speak, hold; dear'st → dearest",
        _rule(
            re.compile(
                rf"(?<!\w)(?P<stem>{LETTER}+?)(?P<ending>{A}dst|{A}st|est|(?<=[dltv])dst|(?<=ai|oo|ol|ar|ou|ve|ke)dst|"
                rf"(?<=say|now|ear|eel|eak|ook|eep|eem|ink|raw|ell)st)(?!\w)",
                re.I,
            ),
            _second_person,
        ),
    ),
    Rule(
        "third person",
        "verbs in -eth: speaketh, trieth → speaks, tries",
        _rule(re.compile(rf"(?<!\w)(?P<stem>{LETTER}+)eth(?!\w)", re.I), _third_person),
    ),
    Rule(
        "participles",
        "-'d: deceiv'd, call'd → deceived, called; I'd and who'd stay",
        _rule(re.compile(rf"(?<!\w)(?<!\w['’])(?P<stem>{LETTER}+){A}d(?!\w)", re.I), _participle),
    ),
    Rule("phrases", "expressions of several words: must needs, fare thee well, from whence", _table(PHRASES)),
    Rule(
        "pray you",
        "I pray you, pray thee → please",
        _rule(
            re.compile(
                r"(?<!\w)(?P<i>I[ \t]+(?:do[ \t]+)?)?(?:pray|beseech)[ \t]+(?:you|thee|ye)(?!\w)",
                re.I,
            ),
            _pray,
        ),
    ),
    Rule(
        "orders",
        "go thou, no question → go",
        _rule(
            re.compile(
                rf"(?<!\w)(?P<verb>{LETTER}+)[ \t]+thou(?![\w'’])",
                re.I,
            ),
            _order,
        ),
    ),
    Rule(
        "get thee",
        "get thee to bed, sit thee down → get to bed, sit down",
        _rule(
            re.compile(
                r"(?<!\w)(?P<verb>get|haste|sit|calm|rest|turn|stay|lay|make haste)[ \t]+thee(?![\w'’])", re.I
            ),
            _reflexive,
        ),
    ),
    Rule("thine", "thine eyes → your eyes; otherwise yours", _rule(_whole("thine"), _thine)),
    Rule("mine", "mine eyes → my eyes, before a list of nouns", _rule(_MINE, lambda m: _cased(m[0], "my"))),
    Rule(
        "yonder",
        "yonder window → that window, yonder comes → there comes",
        _rule(_whole("yonder|yond|yon"), _yonder),
    ),
    Rule("withal", "withal → with; and withal → and also", _rule(_whole("withal"), _withal)),
    Rule("writ", "the verb writ → wrote or written; holy writ stays", _rule(_whole("writ"), _writ)),
    Rule(
        "marry", "the exclamation: Marry, sir → Indeed, sir; the verb stays", _rule(_whole("marry"), _marry)
    ),
    Rule(
        "if",
        "an thou, an you, an he → if",
        _rule(
            re.compile(
                rf"(?<!\w)an(?={GAP}(?:thou|thee|thy|you|he|she|they|we)(?!\w))|"
                r"(?<!\w)an(?=[ \t]+(?:it[ \t]+(?:please|like|be|were)|"
                r"I[ \t]+(?:were|had|could|be|may|might|do|should|will|would))(?!\w))",
                re.I,
            ),
            lambda m: _cased(m[0], "if"),
        ),
    ),
    Rule(
        "agreement",
        "the plain form after I, you, we and they: thou is → you are, they hath → they have",
        _rule(
            re.compile(
                rf"(?<!\w)(?P<subject>I|thou|you|ye|we|they){GAP}(?P<verb>{'|'.join(AGREEING)})(?![\w'’])",
                re.I,
            ),
            _agreement,
        ),
    ),
    Rule(
        "double degrees",
        "most unkindest, more better → unkindest, better",
        _rule(
            re.compile(rf"(?<!\w)(?P<most>most|more)[ \t]+(?P<word>{DOUBLE})(?!\w)", re.I),
            lambda m: _cased(m["most"], m["word"]),
        ),
    ),
    *(Rule(name, what, _table(table)) for name, (table, what) in GROUPS.items()),
    Rule(
        "perfect with be",
        "is come, are fled → has come, have fled",
        _rule(
            re.compile(rf"(?<!\w)(?P<be>is|am|are|was|were)(?={GAP}(?:come|arrived|fled)(?![\w'’-]))", re.I),
            _perfect,
        ),
    ),
    Rule(
        "questions",
        "know you not, what say you → do you not know, what do you say",
        _rule(
            re.compile(
                rf"(?<!\w)(?:(?P<wh>{WH}) )?(?P<verb>{_FORM}) (?P<subject>you|thou|he|she|they|ye)"
                r"(?P<negative> not)?(?![\w'’])",
                re.I,
            ),
            _question,
        ),
    ),
    Rule(
        "negatives",
        "I know not, he knows me not → I do not know, he does not know me",
        _rule(
            re.compile(
                rf"(?<!\w)(?:(?P<subject>I|you|we|they|he|she|it|who|thou|ye) )?(?P<verb>{_FORM}) "
                rf"(?:(?P<object>{OBJECTS}) )?not(?![\w'’]){NOT_NEGATED}",
                re.I,
            ),
            _negative,
        ),
    ),
    Rule(
        "orders not to",
        "speak not, fear you not → do not speak, do not fear",
        _rule(
            re.compile(
                rf"(?<!\w)(?P<verb>{LETTER}+) "
                rf"(?:(?P<subject>you|thou|ye) |(?P<object>me|him|her|them|it|us|thee) )?"
                rf"not(?: (?:you|thou|ye)(?=[,.;!]| for | to ))?(?![\w'’-]){NOT_NEGATED}",
                re.I,
            ),
            _forbid,
        ),
    ),
    Rule("greetings", "good morning → hey there, farewell → see ya", _table(GREETINGS), "slang"),
    Rule("people", "my lord → boss, friend → mate, sir → man", _table(PEOPLE), "slang"),
    Rule("relaxed words", "very → really, money → cash", _table(RELAXED_WORDS), "slang"),
    Rule(
        "short forms", "do not → don't, going to → gonna", _rule(_whole(_spelt(SHORT_FORMS)), _short), "slang"
    ),
)


def _rules(style: str) -> Iterator[Rule]:
    return (rule for rule in RULES if rule.style == style)


def _modern(text: str) -> tuple[str, Counter[str]]:
    """The text after applying the rules of "modern" until none finds anything, and how often each did."""
    counts: Counter[str] = Counter()
    for _ in range(MOST_ROUNDS):
        before = text
        for rule in _rules("modern"):
            text, n = rule.apply(text)
            if n:
                counts[rule.name] += n
        if text == before:
            return text, counts
    raise AssertionError(f"rules still find something after {MOST_ROUNDS} rounds: {text[:80]!r}")


def _styled(text: str, style: str) -> tuple[str, Counter[str]]:
    if style not in STYLES:
        raise ValueError(f"style={style!r}: allowed are {' and '.join(STYLES)}")
    text, counts = _modern(text)
    if style == "slang":
        for rule in _rules("slang"):
            text, n = rule.apply(text)
            if n:
                counts[rule.name] += n
    return text, counts


def modernise(text: str, style: str = "modern") -> str:
    """A text in today's English, with its line breaks, blanks, punctuation and capitals.

    style: "modern", or "slang", which adds relaxed forms to it. In style "modern" a text without archaic
    forms comes back as it is, so that modernise(modernise(x)) == modernise(x). Raises ValueError for another
    style.
    """
    return _styled(text, style)[0]


def applied(text: str, style: str = "modern") -> Counter[str]:
    """How often each rule changes something in `modernise(text, style)`, by the rule's name.

    A form that two rules change in turn counts for both: "know'st thou" is a second person and a question.
    """
    return _styled(text, style)[1]


def archaic_forms(text: str) -> list[str]:
    """The archaic words and expressions in a text, in their order, as they are written there.

    They are what the rules of the style "modern" find before any of them has changed the text. So there are
    none if and only if `modernise` leaves the text as it is. Of forms that overlap, only one is named: the
    one that begins first, or the longest of those that begin together.
    """
    found = {(at, -end) for rule in _rules("modern") for at, end, _ in rule.find(text)}
    forms, reached = [], 0
    for at, minus_end in sorted(found):
        if at >= reached:
            forms.append(text[at:-minus_end].strip())
            reached = -minus_end
    return forms
