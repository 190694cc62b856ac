"""The pickle reader: lists, tuples and strings come back; nothing else does, and nothing runs."""

import pickle
import pickletools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.course.errors import InputError
from helpers.course.pickles import read_pickle, write_pickle

PLAIN = st.recursive(
    st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=12,
)
OTHER = st.one_of(
    st.integers(), st.none(), st.booleans(), st.floats(), st.binary(), st.just({}), st.just(set()), st.just(range(3))
)
SHARED_FOLDER = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED_FOLDER
@given(value=PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_come_back_from_every_protocol(tmp_path, value, protocol):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value, protocol))
    assert read_pickle(tmp_path / "a.pkl") == value
    assert read_pickle(write_pickle(tmp_path / "b.pkl", value)) == value


@SHARED_FOLDER
@given(value=PLAIN, other=OTHER)
def test_any_other_value_is_refused_however_deep(tmp_path, value, other):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([value, ("b", [other])]))
    with pytest.raises(InputError):
        read_pickle(tmp_path / "a.pkl")
    with pytest.raises(InputError):
        write_pickle(tmp_path / "b.pkl", [value, other])
    assert not (tmp_path / "b.pkl").exists()


@SHARED_FOLDER
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_but_never_crash(tmp_path, data):
    (tmp_path / "a.pkl").write_bytes(data)
    try:
        value = read_pickle(tmp_path / "a.pkl")
    except InputError:
        return
    assert isinstance(value, str | list | tuple)


@SHARED_FOLDER
@given(value=PLAIN, data=st.data())
def test_a_changed_byte_runs_nothing(tmp_path, value, data):
    whole = bytearray(pickle.dumps(["가", value], 4))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a.pkl").write_bytes(whole)
    try:
        read_pickle(tmp_path / "a.pkl")
    except InputError as error:
        assert str(error)


def test_a_list_shared_a_billion_times_is_walked_once(tmp_path):
    value: list = ["가"]
    for _ in range(40):
        value = [value, value]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
    assert len(read_pickle(tmp_path / "a.pkl")) == 2


def test_a_list_that_holds_itself_is_walked_once(tmp_path):
    value: list = ["가"]
    value.append(value)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
    assert read_pickle(tmp_path / "a.pkl")[0] == "가"


def test_half_a_character_is_named_by_its_place(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(["가", ("나", "다\ud800")]))
    with pytest.raises(InputError, match=r"half a character[\s\S]*item 1 > item 1, character 2"):
        read_pickle(tmp_path / "a.pkl")


def test_a_reference_to_an_outside_object_is_refused(tmp_path):
    data = b"\x80\x04\x8c\x01aQ."
    assert any(opcode.name == "BINPERSID" for opcode, _, _ in pickletools.genops(data))
    (tmp_path / "a.pkl").write_bytes(data)
    with pytest.raises(InputError, match="outside itself"):
        read_pickle(tmp_path / "a.pkl")
