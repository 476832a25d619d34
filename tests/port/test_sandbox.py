"""Hostile chat templates have limited time and memory and no access; their process starts and ends correctly."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import port.sandbox
from port.errors import ConfigError, PortError
from port.limits import Limits
from port.sandbox import Sandbox, SandboxError
from port.template import ChatTemplate

TALK: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "what?"}]}]
# A small limit of memory only makes the tests faster.
LIMITS = Limits(max_prompt_characters=2_000_000, max_template_seconds=60, max_template_memory=256 * 2**20)
HURRIED = Limits(max_prompt_characters=2_000_000, max_template_seconds=1)
SPIN = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"

BIG = "{% set big = 'a'.ljust(1000000) %}"
GROW = "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = @ %}{% endfor %}{{ n.x|length }}"
TIME = {
    "nested loops": SPIN,
    "recursive loop": "{% for x in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}"
    "{% endfor %}",
    "macros that branch": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "comparisons": BIG + "{% for i in range(99999) %}{{ '' if big == big[1:] ~ 'x' }}{% endfor %}",
    "lists that double, written out": GROW.replace("@", "[n.x, n.x]") + "{{ n.x }}",
    "a number squared": GROW.replace("'ab'", "9").replace("@", "n.x * n.x"),
    "a power, as one operation": "{% set n = 10 %}{{ n ** (n ** n) }}",
    "a power, folded by the compiler": "{{ 10 ** (10 ** 10) }}",
    "a huge template": "{{ x }}" * 142_000,
    "a huge list in the template": "{{ [" + "1," * 490_000 + "] }}",
}
MEMORY = {
    "repetition": "{{ ('x' * 10 ** 9)|length }}",
    "repetition from the right": "{{ (10 ** 9 * 'x')|length }}",
    "a list repeated": "{{ ([0] * 10 ** 9)|length }}",
    "doubling by +": GROW.replace("@", "n.x + n.x"),
    "doubling by ~": GROW.replace("@", "n.x ~ n.x"),
    "doubling by join": GROW.replace("@", "[n.x, n.x]|join"),
    "namespaces in namespaces": "{% set n = namespace(x=1) %}{% for i in range(40) %}"
    "{% set n.x = namespace(a=n.x, b=n.x) %}{% endfor %}{{ n.x }}",
    "constants folded by the compiler": "{{ 'a' * 50000000 }}" * 9,
    "a long row of ~": BIG + "{{ (" + " ~ ".join(["big"] * 600) + ")|length }}",
    "text in a macro": BIG
    + "{% macro m() %}{% for i in range(9999) %}{{ big }}{% endfor %}{% endmacro %}{{ m()|length }}",
    "text in a block": BIG + "{% set x %}{% for i in range(9999) %}{{ big }}{% endfor %}{% endset %}{{ x|length }}",
    "padding": "{{ 'x'.ljust(10 ** 9)|length }}",
    "padding by a filter": "{{ ('x'|center(10 ** 9))|length }}",
    "a method in disguise": "{{ (['x']|map(attribute='ljust')|first)(10 ** 9)|length }}",
    "%-format": "{{ ('%999999999d' % 1)|length }}",
    "%-format of a key": "{{ ('%(a)999999999d' % {'a': 1})|length }}",
    "%-format with *": "{{ ('%*d' % (999999999, 1))|length }}",
    "%-format repeated": BIG + "{{ (('%(a)s' * 99999) % {'a': big})|length }}",
    "format filter": "{{ ('%999999999d'|format(1))|length }}",
    "format method": "{{ '{:999999999}'.format(1)|length }}",
    "format method repeated": BIG + "{{ ('{0}' * 99999).format(big)|length }}",
    "replace": BIG + "{{ big.replace(' ', big)|length }}",
    "replace everywhere": BIG + "{{ big.replace('', big)|length }}",
    "replace filter": BIG + "{{ (big|replace(' ', big))|length }}",
    "join": BIG + "{{ big.join(big)|length }}",
    "join of a lazy filter": BIG + "{{ range(9999)|map('center', 100000)|join|length }}",
    "a big list of small texts": "{{ (range(99999)|list * 999)|map('string')|list|length }}",
    "batch": "{{ [1]|batch(10 ** 9, 0)|list|length }}",
    "tabs": "{{ ('\t' * 99999).expandtabs(1000000)|length }}",
    "indent": "{{ ([1]|tojson(indent=10 ** 9))|length }}",
}
OUTPUT = {
    "many parts": "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "one part": "{{ 'x' * 2000001 }}",
    "format": "{{ strftime_now('%A' * 999999) }}",
}
REFUSED = {
    "attributes": ("{{ messages.__class__.__mro__ }}", "'__class__' of 'list' object is unsafe"),
    "items": ("{{ messages['__class__']['__base__'] }}", "'__class__' of 'list' object is unsafe"),
    "attributes by name": ("{{ (messages|attr('__class__')).mro() }}", "'__class__' of 'list' object is unsafe"),
    "attributes in a format": ("{{ '{0.__class__.__mro__}'.format(messages) }}", "'__class__' of 'list' .* unsafe"),
    "attributes in format_map": (
        "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
        "'__class__' of 'int' .* unsafe",
    ),
    "attributes in a mapped filter": (
        "{{ ([[]]|map(attribute='__class__')|first).x }}",
        "'__class__' of 'list' .* unsafe",
    ),
    "subclasses": ("{{ ''.__class__.__base__.__subclasses__() }}", "'__class__' of 'str' object is unsafe"),
    "globals": ("{{ raise_exception.__globals__['json'] }}", "'__globals__' of 'function' object is unsafe"),
    "globals of Jinja": ("{{ lipsum.__globals__.os.system('true') }}", "'__globals__' of 'function' object is unsafe"),
    "globals of a macro": ("{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}", "'_func' of 'Macro' .* unsafe"),
    "the environment": ("{{ self._TemplateReference__context.x }}", "'_TemplateReference__context' of .* unsafe"),
    "a builtin type": ("{{ dict.__call__.__func__ }}", "'__call__' of '_Dict' object is unsafe"),
    "underscored names": ("{{ namespace(_x=1) }}", "a namespace cannot hold '_x'"),
    "underscored names, later": ("{% set n = namespace() %}{% set n._x = 1 %}", "a namespace cannot hold '_x'"),
    "change": ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
    "files": ("{% include 'config.json' %}", "no loader"),
    "imports": ("{% import 'os' as os %}", "no loader"),
    "range": ("{{ range(10 ** 9) }}", "Range too big"),
    "a macro without end": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    "a loop without end": ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursion"),
    "a format wider than Python allows": ("{{ '%99999999999999999999d'|format(1) }}", "width too big"),
    "its own refusal": ("{{ raise_exception('no such role') }}", "no such role$"),
    "its own refusal at length": ("{{ raise_exception('no' * 1000000) }}", "(no){250}$"),
    "types": ("{{ messages + 1 }}", "can only concatenate list"),
    "division": ("{{ 1 / 0 }}", "division by zero"),
}


def attack(text: str, limits: Limits, why: str) -> None:
    start = time.monotonic()
    with pytest.raises(PortError, match=f"^the chat template of here {why}") as caught:
        ChatTemplate(text, "here", limits).render(TALK, add_generation_prompt=True)
    assert len(str(caught.value)) < 1000
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("name", TIME)
def test_templates_that_take_too_long_are_ended(name: str) -> None:
    attack(TIME[name], HURRIED, r"asks for more than 1 s \(Limits.max_template_seconds\)")


@pytest.mark.parametrize("name", MEMORY)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux")
def test_templates_that_take_too_much_memory_are_ended(name: str) -> None:
    attack(MEMORY[name], LIMITS, r"asks for more than 256 MiB of memory \(Limits.max_template_memory\)")


@pytest.mark.parametrize("name", OUTPUT)
def test_templates_that_write_too_much_are_ended(name: str) -> None:
    attack(OUTPUT[name], LIMITS, r"asks for more than 2,000,000 characters \(Limits.max_prompt_characters\)")


@pytest.mark.parametrize("name", REFUSED)
def test_templates_reach_nothing_but_the_conversation(name: str) -> None:
    text, why = REFUSED[name]
    attack(text, LIMITS, f"refuses the conversation: .*{why}")


@pytest.mark.parametrize("text", ["{{ " + "(" * 5000 + ")" * 5000 + " }}", "{% if a %}" * 90_000, "{% break %}"])
def test_templates_that_cannot_be_compiled_say_so(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^the chat template of here does not compile: "):
        ChatTemplate(text, "here", LIMITS)


def pid_of(sandbox: Sandbox) -> int:
    assert sandbox._process is not None
    return sandbox._process.pid


def until(done: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.02)
    return done()


def test_one_process_serves_every_rendering_also_after_a_refusal() -> None:
    sandbox = Sandbox("{{ 1 / x }}", LIMITS)
    pid = pid_of(sandbox)
    assert sandbox.render({"x": 2}) == "0.5"
    with pytest.raises(SandboxError, match="division by zero"):
        sandbox.render({"x": 0})
    assert sandbox.render({"x": 4}) == "0.25"
    assert pid_of(sandbox) == pid


@pytest.mark.parametrize(
    ("bad", "why"), [("{% for i in range(n) %}" + SPIN, "1 s"), ("{{ ('x' * n ** 2)|length }}", "memory")]
)
def test_after_too_much_comes_a_new_process(bad: str, why: str) -> None:
    sandbox = Sandbox("{% if n %}" + bad + ("{% endfor %}" if "for" in bad else "") + "{% endif %}fine", HURRIED)
    pid = pid_of(sandbox)
    with pytest.raises(SandboxError, match=why):
        sandbox.render({"n": 99_999})
    assert not psutil.pid_exists(pid), "nor a zombie"
    assert sandbox.render({"n": 0}) == "fine"


def test_time_between_renderings_does_not_count() -> None:
    sandbox = Sandbox("fine", HURRIED)
    pid = pid_of(sandbox)
    time.sleep(2.2)
    assert sandbox.render({}) == "fine"
    assert pid_of(sandbox) == pid


def test_a_process_that_is_killed_is_replaced() -> None:
    sandbox = Sandbox("{% if n %}" + SPIN + "{% endif %}fine", LIMITS)
    psutil.Process(pid_of(sandbox)).kill()
    assert until(lambda: sandbox._process is not None and sandbox._process.poll() is not None)
    assert sandbox.render({"n": 0}) == "fine"
    killer = threading.Timer(0.3, psutil.Process(pid_of(sandbox)).kill)
    killer.start()
    with pytest.raises(SandboxError, match=r"^was not rendered: its process ended with exit status -9; try again"):
        sandbox.render({"n": 1})
    killer.join()
    assert sandbox.render({"n": 0}) == "fine"


def test_threads_take_turns_and_leave_nothing_behind() -> None:
    gc.collect()
    before = threading.active_count(), psutil.Process().num_fds()
    sandbox = Sandbox("{% for i in range(999) %}{{ x }}{% endfor %}", LIMITS)
    pid = pid_of(sandbox)
    with ThreadPoolExecutor(20) as pool:
        texts = list(pool.map(sandbox.render, [{"x": x} for x in range(200)]))
    assert texts == [str(x) * 999 for x in range(200)]
    assert pid_of(sandbox) == pid
    del sandbox
    gc.collect()
    assert not psutil.pid_exists(pid), "nor a zombie"
    assert (threading.active_count(), psutil.Process().num_fds()) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that it has threads: that is what is tested
def test_a_forked_process_starts_its_own() -> None:
    sandbox = Sandbox("{% if n %}" + SPIN.replace("99999", "3000") + "{% endif %}fine", LIMITS)
    pid = pid_of(sandbox)
    busy = threading.Thread(target=sandbox.render, args=({"n": 1},))  # holds the lock
    busy.start()
    assert until(sandbox._lock.locked)
    if (child := os.fork()) == 0:
        status = 1
        try:
            status = 0 if sandbox.render({"n": 0}) == "fine" and pid_of(sandbox) != pid else 2
            sandbox._stop()
        finally:
            os._exit(status)
    try:
        assert psutil.Process(child).wait(20) == 0
    finally:
        if psutil.pid_exists(child):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    busy.join()
    assert sandbox.render({"n": 0}) == "fine"
    assert pid_of(sandbox) == pid


# Started with the path of port's parent; prints the process of a template and does what is put in.
SCRIPT = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background may have been told to ignore it
from port.limits import Limits
from port.sandbox import Sandbox
sandbox = Sandbox("{{% if n %}}{spin}{{% endif %}}fine", Limits(max_template_seconds={seconds}))
print(sandbox._process.pid, flush=True)
{action}
"""
SPINS = "sandbox.render({'n': 1})"


def started(action: str, seconds: float, spin: str = SPIN) -> tuple[subprocess.Popen[str], psutil.Process]:
    process = subprocess.Popen(
        [
            sys.executable,
            "-W",
            "always::ResourceWarning",
            "-c",
            SCRIPT.format(spin=spin, seconds=seconds, action=action),
        ],
        cwd=Path(port.sandbox.__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, psutil.Process(int(process.stdout.readline()))


def gone(worker: psutil.Process) -> bool:
    return not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE  # what init has not collected yet


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    "action",
    [
        pytest.param(SPINS, id="in the middle of a rendering"),
        pytest.param("time.sleep(60)", id="idle"),
        pytest.param("if os.fork(): time.sleep(60)\nelse: time.sleep(15)", id="while a forked process lives on"),
    ],
)
def test_it_ends_when_its_parent_is_killed(action: str) -> None:
    process, worker = started(action, seconds=3)
    if action is SPINS:
        assert until(lambda: worker.cpu_times().user > 0.3), "it spins"
    else:
        time.sleep(0.3)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert until(lambda: gone(worker))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_it_goes_on_when_a_forked_process_ends() -> None:
    process, _ = started(
        "if os.fork() == 0: sys.exit()\nos.wait(); print(sandbox._process.poll(), sandbox.render({'n': 0}))", seconds=60
    )
    assert process.communicate() == ("None fine\n", "")


def test_it_ends_when_its_parent_ends() -> None:
    process, worker = started("time.sleep(1)", seconds=3)  # long enough to be looked at
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    assert until(lambda: gone(worker))


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_is_for_the_parent_alone() -> None:
    action = "signal.signal(signal.SIGINT, lambda *_: print('later'))\nprint('ready', flush=True)\n"
    process, _ = started(action + "print(sandbox.render({'n': 1}))", seconds=60, spin=SPIN.replace("99999", "6000"))
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate() == ("later\nfine\n", "")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_rendering_can_be_interrupted() -> None:
    action = f"try:\n    {SPINS}\nexcept KeyboardInterrupt:\n    print(sandbox.render({{'n': 0}}))"
    process, worker = started(action, seconds=60)
    assert until(lambda: worker.cpu_times().user > 0.3), "it spins"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate() == ("fine\n", "")
    assert gone(worker)


@pytest.mark.skipif(sys.platform != "linux", reason="where limits are read")
def test_limits_of_the_system_are_set() -> None:
    sandbox = Sandbox("x", LIMITS)
    lines = Path(f"/proc/{pid_of(sandbox)}/limits").read_text().splitlines()
    found = {line[:25].strip(): line[25:].split()[:2] for line in lines}
    assert found["Max address space"] == [str(256 * 2**20)] * 2
    assert found["Max core file size"] == found["Max file size"] == ["0", "0"]
    assert found["Max open files"] == ["16", "16"]


def test_an_answer_without_end_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import os\nwhile True: os.write(1, b'x' * 65536)")
    monkeypatch.setattr(port.sandbox, "_WORKER", worker)
    with pytest.raises(SandboxError, match=r"^was not rendered: its process ended with exit status -9"):
        Sandbox("x", LIMITS)


def test_what_a_process_says_at_its_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text('print(\'{"kind": "too much", "error": "memory"}\')')
    monkeypatch.setattr(port.sandbox, "_WORKER", worker)
    with pytest.raises(SandboxError, match="asks for more than memory"):
        Sandbox("a template longer than a pipe" * 10_000, LIMITS)


@pytest.mark.parametrize("text", ["\x1f", "\U0001f408", "\ud83d", '"'])
def test_the_longest_prompt_is_read_whatever_it_is_written_in(text: str) -> None:
    sandbox = Sandbox("{{ x * n }}", Limits(max_prompt_characters=1_000_000))
    assert sandbox.render({"x": text, "n": 1_000_000}) == text * 1_000_000
    with pytest.raises(SandboxError, match="more than 1,000,000 characters"):
        sandbox.render({"x": text, "n": 1_000_001})
