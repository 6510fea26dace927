"""The config tree: order, strictness, one line an error; every config that ships loads."""

from pathlib import Path

import pytest

from uniner.config.loader import describe, load
from uniner.config.schema import Annotate, Config
from uniner.config.systems import SYSTEMS
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


def test_a_word_takes_back_what_the_file_says(config_file):
    config = load([config_file, "ingest.passages=5", "ingest.passages=default", "run.seed=default"])
    assert (config.ingest.passages, config.run.seed) == (None, 0)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("ingest.max_token=3", "unknown setting ingest.max_token (did you mean max_tokens?)"),
        ("ingestion.max_tokens=3", "unknown setting ingestion"),
        ("ingest.max_tokens=many", "ingest.max_tokens = 'many': input should be a valid integer"),
        ("ingest.sample=0", "ingest.sample = 0: input should be greater than 0"),
        ("student.template=own", "student.template = 'own': input should be 'type', 'definition',"),
        ("train.workers=[4, 2]", "train.workers = [4, 2]: value error, must be a number of workers, or [few"),
        ("train.workers=0", "train.workers = 0: value error, must be a number of workers"),
        ("run.name=../up", "run.name = '../up': string should match pattern"),
        ('evaluate.gold={"a/b" = "x"}', "evaluate.gold.a/b = 'a/b': string should match pattern"),
        ('build.supervised={"a/b" = "x"}', "build.supervised.a/b = 'a/b': string should match pattern"),
        ("engine.min_actors=2", "engine.min_actors = 2: value error, must not be more than engine.actors"),
        ('evaluate.system.x={kind="chat", modle="m"}', "unknown setting evaluate.system.x.modle (did you"),
        ('evaluate.system.x={kind="bert", train={}, epochs=0}', "evaluate.system.x.epochs = 0: input should"),
        ('evaluate.system.x={kind="bard"}', "evaluate.system.x.kind must be one of template, chat, vicuna,"),
        ('evaluate.system={"a/b"={kind="chat", model="m"}}', "evaluate.system.a/b = 'a/b': string should"),
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


def test_identity_leaves_out_how_and_keeps_what():
    identity = Annotate(in_flight=3, base_url="http://x", model="m").identity()
    assert identity["model"] == "m"
    assert not {"in_flight", "base_url", "actors", "timeout_s"} & identity.keys()


def test_every_setting_is_described():
    for section in [*(each.annotation for each in Config.model_fields.values()), *SYSTEMS.values()]:
        for name, field in section.model_fields.items():
            assert field.description, name
    assert "ingest" in describe()


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
