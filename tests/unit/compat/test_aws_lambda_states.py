"""What a Lambda runtime may ask for next, in every order."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from pelton.compat.aws_lambda.states import (
    INVALID_ID,
    TOO_LARGE,
    Phase,
    Refusal,
    RuntimeStates,
    error_type,
)


def _running(**options):
    states = RuntimeStates(**options)
    states.next()
    states.invoke("a")
    return states


def test_next_of_a_new_runtime_waits_and_ends_init():
    states = RuntimeStates()

    assert not states.polled
    assert states.next() == ""
    assert (states.phase, states.polled, states.free) == (Phase.READY, True, True)


def test_repeated_next_while_ready_keeps_waiting():
    states = RuntimeStates()
    states.next()

    assert states.next() == ""
    assert states.free


def test_repeated_next_while_running_repeats_the_invocation():
    states = _running()

    assert states.next() == "a"
    assert states.phase is Phase.RUNNING
    assert not states.free


def test_next_while_an_answer_is_posted_is_forbidden():
    states = _running()
    states.answer("a")

    refusal = states.next()

    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.error_type) == (403, "InvalidStateTransition")
    assert "InvocationResponse" in refusal.message


@pytest.mark.parametrize("phase", [Phase.RESPONSE, Phase.ERROR_RESPONSE])
def test_answer_goes_through_its_own_phase_to_sent(phase):
    states = _running()

    assert states.answer("a", phase) is None
    assert states.phase is phase
    states.sent("a")
    assert states.phase is Phase.SENT
    assert states.next() == ""


def test_unknown_id_is_refused_in_every_phase():
    started, running = RuntimeStates(), _running()
    failed = RuntimeStates()
    failed.init_error()

    assert [s.answer("b") for s in (started, running, failed)] == [INVALID_ID] * 3
    assert INVALID_ID.status == 400


def test_answered_id_is_refused_as_unknown():
    states = _running()
    states.answer("a")
    states.sent("a")

    assert states.answer("a") == INVALID_ID
    assert states.answer("a", Phase.ERROR_RESPONSE) == INVALID_ID


def test_second_answer_beside_the_first_is_forbidden():
    states = _running()
    states.answer("a")

    refusal = states.answer("a", Phase.ERROR_RESPONSE)

    assert refusal is not None
    assert (refusal.status, refusal.error_type) == (403, "InvalidStateTransition")


def test_init_error_is_for_init_only():
    fresh, polled = RuntimeStates(), RuntimeStates()
    polled.next()

    assert fresh.init_error() is None
    assert fresh.phase is Phase.INIT_ERROR
    for states in (fresh, polled):
        refusal = states.init_error()
        assert refusal is not None
        assert refusal.status == 403


def test_next_after_init_error_is_forbidden():
    states = RuntimeStates()
    states.init_error()

    refusal = states.next()

    assert isinstance(refusal, Refusal)
    assert refusal.status == 403
    assert not states.free


def test_restore_needs_init_caching():
    plain, caching = RuntimeStates(), RuntimeStates(caching=True)

    assert plain.restore_next() is not None
    assert caching.restore_next() is None
    assert caching.phase is Phase.RESTORING
    assert caching.next() == ""


@pytest.mark.parametrize("give_up", ["init_error", "restore_error"])
def test_restore_may_fail_by_either_call(give_up):
    states = RuntimeStates(caching=True)

    assert states.restore_error() is not None
    states.restore_next()
    assert getattr(states, give_up)() is None
    assert states.phase is Phase.RESTORE_ERROR
    assert isinstance(states.next(), Refusal)


def test_runtime_for_several_gets_another_invocation_with_each_next():
    states = _running(several=True)

    assert states.next() == ""
    assert states.free
    states.invoke("b")
    assert states.running == ("a", "b")
    assert states.answer("b") is None
    assert states.next() == ""  # answering one does not hold up the other
    states.sent("b")
    assert states.running == ("a",)


def test_misuse_by_the_platform_is_an_error():
    states = RuntimeStates()

    with pytest.raises(ValueError):
        states.invoke("a")
    with pytest.raises(ValueError):
        states.sent("a")
    twice = _running(several=True)
    with pytest.raises(ValueError):
        twice.invoke("a")


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ("Runtime.ExitError", "Runtime.ExitError"),
        ("Function.ResponseSizeTooLarge", "Function.ResponseSizeTooLarge"),
        ("Function.lower", "Function.Unknown"),
        ("Function.", "Function.Unknown"),
        ("Function.Two.Dots", "Function.Unknown"),
        ("Runtime.X", "Runtime.Unknown"),
        ("Runtime.With Space", "Runtime.Unknown"),
        ("Runtime.Exit\n", "Runtime.Unknown"),
        ("ValueError", "Runtime.Unknown"),
        ("", "Runtime.Unknown"),
    ],
)
def test_error_type_counts_only_in_its_form(said, counts):
    assert error_type(said) == counts


def test_size_refusal_names_the_limit():
    assert TOO_LARGE.status == 413
    assert str(6 * 1024 * 1024 + 100) in TOO_LARGE.message


class _Machine(RuleBasedStateMachine):
    """Whatever order requests come in, invocations are handed out once each and answered once each."""

    several = False
    open_ids = Bundle("open_ids")
    posting = Bundle("posting")

    def __init__(self):
        super().__init__()
        self.states = RuntimeStates(several=self.several)
        self.count = 0
        self.model: dict[str, str] = {}
        self.failed = False

    @rule()
    def ask_for_next(self):
        answer = self.states.next()
        if self.failed:
            assert isinstance(answer, Refusal)
        elif self.several or not self.model:
            assert answer == ""
        elif "posting" in self.model.values():
            assert isinstance(answer, Refusal)
        else:
            assert answer in self.model

    @precondition(lambda self: self.states.free)
    @rule(target=open_ids)
    def invoke(self):
        self.count += 1
        request_id = str(self.count)
        self.states.invoke(request_id)
        self.model[request_id] = "running"
        return request_id

    @rule(target=posting, request_id=consumes(open_ids), good=st.booleans())
    def begin_answer(self, request_id, good):
        phase = Phase.RESPONSE if good else Phase.ERROR_RESPONSE
        assert self.states.answer(request_id, phase) is None
        self.model[request_id] = "posting"
        return request_id

    @rule(request_id=posting)
    def answer_again(self, request_id):
        refusal = self.states.answer(request_id)
        assert refusal is not None
        assert refusal.status == (403 if request_id in self.model else 400)

    @precondition(lambda self: "posting" in self.model.values())
    @rule(request_id=posting)
    def complete(self, request_id):
        if request_id in self.model:
            self.states.sent(request_id)
            del self.model[request_id]

    @rule(request_id=st.sampled_from(["", "0", "x"]))
    def answer_unknown(self, request_id):
        assert self.states.answer(request_id) == INVALID_ID

    @rule()
    def report_init_error(self):
        allowed = not self.states.polled and not self.failed
        assert (self.states.init_error() is None) == allowed
        self.failed = self.failed or allowed

    @invariant()
    def knows_what_runs(self):
        assert set(self.states.running) == set(self.model)
        if not self.several:
            assert len(self.model) <= 1
        if self.failed:
            assert not self.states.free


class _MachineForSeveral(_Machine):
    several = True


_limits = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestOneAtATime = _Machine.TestCase
TestOneAtATime.settings = _limits
TestSeveral = _MachineForSeveral.TestCase
TestSeveral.settings = _limits
