"""The config tree: order, strictness, one line an error; every config that ships loads."""

import re
from pathlib import Path

import pytest

from uniner.config.loader import _MOVED, load
from uniner.config.reference import describe, sections, type_name
from uniner.config.schema import Annotate
from uniner.errors import UserError

REPOSITORY = Path(__file__).parents[2]
MINIMAL = '[run]\nname = "a"\n[student]\nbase = "b"\n[ingest]\nshards = ["x.jsonl.zst"]\n'


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(MINIMAL + "max_tokens = 100\n")
    return str(path)


def test_words_win_over_file_over_defaults(config_file):
    config = load([config_file, "ingest.sample=0.5", "run.name=other", 'tag.types=["person", "city"]'])
    assert (config.ingest.max_tokens, config.ingest.sample, config.annotate.temperature) == (100, 0.5, 0.0)
    assert config.run.name == "other"
    assert config.tag.types == ["person", "city"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ingest.max_tokens=256"], None),
        (["ingest.max_tokens=300"], "set student.max_tokens=1140, or ingest.max_tokens=264"),
        (["ingest.max_tokens=300", "student.max_tokens=1140"], None),
        (["student.max_tokens=256"], "set student.max_tokens=480, or ingest.max_tokens=32"),
    ],
)
def test_the_template_words_needs_room_for_its_answers(config_file, words, message):
    assert load([config_file, *words]).student.template == "type"
    if message is None:
        load([config_file, "student.template=words", *words])
        return
    with pytest.raises(UserError, match=message):
        load([config_file, "student.template=words", *words])


def test_a_word_takes_back_what_the_file_says(config_file):
    config = load([config_file, "ingest.max_passages=5", "ingest.max_passages=default", "run.seed=default"])
    assert (config.ingest.max_passages, config.run.seed) == (None, 0)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ingest.max_token=3", "unknown setting ingest.max_token (did you mean ingest.max_tokens?)"),
        ("ingestion.max_tokens=3", "unknown setting ingestion (did you mean ingest?)"),
        ("foo.bar=3", "unknown setting foo: there is no such section; the sections are run, student, "),
        ("run.foo=3", "unknown setting run.foo; `uniner settings run` lists those that exist"),
        ("run.name=default", "setting run.name is missing; set it, such as run.name=my-run"),
        (
            'evaluate.system.x={kind="gliner"}',
            "evaluate.system.x.model is missing; `uniner settings evaluate.system.NAME` describes it",
        ),
        ("ingest.max_tokens=many", "ingest.max_tokens = 'many': must be a whole number, such as 2"),
        ("train.epochs=100000000000000000000", "0: must be less than or equal to 10000"),
        ("encoder.epochs=10001", "encoder.epochs = 10001: must be less than or equal to 10000"),
        ("train.learning_rate=inf", "train.learning_rate = inf: must be a finite number, such as 0.5"),
        ("train.weight_decay=nan", "train.weight_decay = nan: must be"),
        ("annotate.temperature=nan", "annotate.temperature = nan: must be"),
        ("run.budget_usd=inf", "run.budget_usd = inf: must be a finite number"),
        ("ingest.sample=0", "ingest.sample = 0: must be greater than 0"),
        ("student.template=own", "student.template = 'own': must be 'type', 'definition',"),
        ("train.workers=[4, 2]", "train.workers = [4, 2]: must be a number of workers, such as 4, or [few"),
        ("train.workers=0", "train.workers = 0: must be a number of workers"),
        (
            "train.activation_checkpointing=Selective",
            "train.activation_checkpointing = 'Selective': must be true or false, or 'selective'",
        ),
        ("train.lora_modules=3", "train.lora_modules = 3: must be a list, such as train.lora_modules="),
        (
            'tag.types=[""]',
            "tag.types.0 = '': must be a line in visible characters, without blanks around it",
        ),
        ('tag.types=["\u200b"]', "tag.types.0 = '\\u200b': must be a line in visible characters"),
        ('tag.types=["person\u200b"]', "tag.types.0 = 'person\\u200b': must be a line in visible characters"),
        ('tag.types_of_source={a=["\u3164"]}', "must be a line in visible characters, without blanks"),
        (
            'tag.min_score_of_type={" x"=0.4}',
            "tag.min_score_of_type: the name ' x' must be a line in visible",
        ),
        ('ingest.languages=["EN"]', "ingest.languages.0 = 'EN': must be a language by its code of ISO 639"),
        ("run.name=caf\udce9", r"setting 1 of the command line (run.name=caf\udce9) is not UTF-8"),
        ("run.name=../up", "run.name = '../up': must be letters, digits"),
        (f"run.name={'x' * 101}", "should have at most 100 characters"),
        ('evaluate.gold={"a/b" = "x"}', "evaluate.gold: the name 'a/b' must be letters, digits"),
        ('build.supervised={"a/b" = "x"}', "build.supervised: the name 'a/b' must be letters, digits"),
        ("engine.min_actors=2", "engine.min_actors = 2: must not be more than engine.actors"),
        (
            'evaluate.system.x={kind="chat", teacher={modle="m"}}',
            "unknown setting evaluate.system.x.teacher.modle (did",
        ),
        (
            'evaluate.system.x={kind="bert", train={}, epochs=0}',
            "evaluate.system.x.epochs = 0: must be greater",
        ),
        ('evaluate.system.x={kind="bard"}', "evaluate.system.x.kind must be one of template, chat, vicuna,"),
        (
            'evaluate.system={"a/b"={kind="chat", teacher={}}}',
            "evaluate.system: the name 'a/b' must be letters",
        ),
        (
            "build.near_synonym_likeness=0",
            "build.near_synonym_likeness = 0: must be greater than or equal to 0.5, such as 0.75",
        ),
        (
            "tag.min_score_of_type.a=1.5",
            "tag.min_score_of_type.a = 1.5: must be less than or equal to 1, such as 1",
        ),
        ("train.epochs=0", "train.epochs = 0: must be greater than or equal to 1, such as 3"),
        ("train.learning_rate=0", "train.learning_rate = 0: must be greater than 0, such as 2e-05"),
        ('tag.rules=""', "tag.rules = '': string should have at least 1 character; leave the setting out"),
        ('tag.rules_language=""', "must be a language by its code of ISO 639"),
        ("nonsense", "'nonsense' is not of the form section.key=value"),
        ("run.name.deeper=1", "'run.name.deeper=1': name is a value, not a section"),
    ],
)
def test_a_wrong_word_is_named_in_one_line(config_file, word, message):
    with pytest.raises(UserError) as caught:
        load([config_file, word])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"), [("[run\n", "is not TOML"), ("[run]\nname='a'\n", "setting student is missing")]
)
def test_a_wrong_file_is_named(tmp_path, content, message):
    path = tmp_path / "wrong.toml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load([str(path)])


def test_a_file_may_begin_with_a_byte_order_mark(config_file, tmp_path):
    marked = tmp_path / "marked.toml"
    marked.write_bytes(b"\xef\xbb\xbf" + Path(config_file).read_bytes().replace(b"\n", b"\r\n"))
    assert load([str(marked)]) == load([str(config_file)])


def test_a_file_says_only_what_differs_from_the_one_it_is_like(config_file, tmp_path):
    (tmp_path / "more.toml").write_text(
        'like = "config.toml"\n[ingest]\nsample = 0.5\n[tag]\ntypes = ["a"]\n'
    )
    config = load([str(tmp_path / "more.toml"), "ingest.sample=0.25"])
    assert (config.run.name, config.ingest.max_tokens, config.ingest.sample) == ("a", 100, 0.25)
    assert config.tag.types == ["a"]
    (tmp_path / "config.toml").write_text('like = "more.toml"\n')
    with pytest.raises(UserError, match="must name another file of its folder"):
        load([str(tmp_path / "more.toml")])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("tag.types=person,city", 'must be a list, such as tag.types=\'["person", "city"]\''),
        ("train.use_gpu=maybe", "train.use_gpu = 'maybe': must be true or false"),
        ("evaluate.gold=x", "must be a table, such as evaluate.gold.NAME=VALUE"),
        ("teacher.kind=foo", "teacher.kind must be one of openai, batch, vllm, recording"),
        ("teacher.in_flight=0", "teacher.in_flight = 0: must be greater than or equal to 1"),
        ("teacher.gpus=2", "unknown setting teacher.gpus: only teacher.kind = 'vllm' has it"),
    ],
)
def test_an_error_gives_an_example_of_a_right_value(config_file, word, message):
    with pytest.raises(UserError) as caught:
        load([config_file, word])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("annotate.model=x", "annotate.model moved: use teacher.model"),
        ("annotate.budget_usd=1", "annotate.budget_usd moved: use run.budget_usd"),
        ("tag.plan=true", "tag.plan moved: use the option --estimate: uniner tag CONFIG --estimate"),
        ("tag.located=best", "tag.located moved: use tag.occurrences"),
        ("train.failures=1", "train.failures moved: use train.max_failures"),
        (
            'evaluate.system.x={kind="chat", teacher={}, base_url="u"}',
            "evaluate.system.x.base_url moved: use evaluate.system.x.teacher.base_url",
        ),
    ],
)
def test_a_setting_that_moved_is_answered_with_its_new_place(config_file, word, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load([config_file, word])


def test_every_moved_setting_names_one_that_exists(config_file):
    """The new place of a setting is a setting, or an option of the command line."""
    tree = {
        f"{name.split(',')[0]}.{key}" for name, section in sections().items() for key in section.model_fields
    }
    for place in _MOVED.values():
        assert place.startswith("the option --") or place.split(" ")[0] in tree, place


def test_the_kinds_of_teacher_differ_in_their_settings(config_file):
    config = load([config_file, "teacher.model=m", "teacher.base_url=http://x"])
    assert config.teacher.kind == "openai"
    batch = load([config_file, "teacher.model=m", "teacher.kind=batch", "teacher.in_flight=3"])
    assert config.teacher.identity() == batch.teacher.identity() == {"model": "m"}
    vllm = load([config_file, "teacher.model=m", "teacher.kind=vllm", "teacher.gpus=2"])
    assert vllm.teacher.identity() == {"model": "m", "dtype": "auto", "max_prompt_tokens": 2048}


def test_identity_has_what_decides_the_output_alone():
    identity = Annotate(temperature=0.5, max_bad_share=0.1, prompt="x.txt").identity()
    assert identity["temperature"] == 0.5
    assert not {"max_bad_share", "prompt"} & identity.keys()


def test_every_setting_is_described_with_its_type():
    for section in sections().values():
        for name, field in section.model_fields.items():
            assert field.description, name
            assert type_name(field.annotation) != "section" or name in ("teacher", "system"), name
    assert "ingest" in describe()


def test_a_section_is_described_in_a_screen():
    text = describe("tag")
    assert len(text.splitlines()) <= 80
    assert 'ungrounded  ("keep" | "drop", default "keep")' in text
    with pytest.raises(UserError, match="there is no section tagg; the sections are run, student"):
        describe("tagg")


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "jobs" / "configs").glob("*.toml")), ids=lambda p: p.name
)
def test_every_config_that_ships_loads(path):
    load([str(path)])


def test_recipes_differ_where_they_say(monkeypatch):
    def differing(name):
        plain, other = (
            load([str(REPOSITORY / "jobs" / "configs" / file)]).model_dump()
            for file in ("paper-7b.toml", name)
        )
        return {
            f"{section}.{key}"
            for section, values in other.items()
            for key, value in values.items()
            if value != plain[section][key]
        }

    assert differing("paper-13b.toml") == {"run.name", "student.base"}
    assert differing("lora.toml") == {
        "run.name", "train.lora_rank", "train.lora_alpha", "train.learning_rate", "train.workers"
    }  # fmt: skip
    assert differing("qlora.toml") == differing("lora.toml") | {"train.lora_bits"}
    assert differing("supervised-only.toml") == {
        "run.name", "build.teacher_weight", "build.supervised", "build.labels"
    }  # fmt: skip
    assert differing("teacher-plus-supervised.toml") == {"run.name", "build.supervised", "build.labels"}
    assert differing("further-training.toml") >= {"student.base", "train.learning_rate", "train.epochs"}
    further = load([str(REPOSITORY / "jobs" / "configs" / "further-training.toml")])
    assert further.build.supervised.keys() == {"my-labels"} and further.build.teacher_weight == 0


@pytest.mark.parametrize("word", ["tag.min_score", "tag.min_score_of_type.person", "tag.chunk_passages"])
def test_true_is_no_number(config_file, word):
    with pytest.raises(UserError, match=re.escape(word) + ".*must be a number, not true or false"):
        load([config_file, f"{word}=true"])
