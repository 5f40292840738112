"""What a service manager hears, on a real socket; the time is the test's."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from proxy.logs import Journal
from proxy.notify import Notifier
from tests.middlewares.fakes import FakeTimer
from tests.support.manager import Manager


class Scene:
    """A notifier with its time and its log."""

    def __init__(self, place: str | None, **environ: str) -> None:
        self.timer = FakeTimer()
        self.environ = {"PATH": "/bin", **environ} | ({"NOTIFY_SOCKET": place} if place is not None else {})
        self.err = io.StringIO()
        self.notifier = Notifier(self.environ, self.timer, Journal(io.StringIO(), self.err))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.notifier.close()

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.err.getvalue().splitlines()]

    def say_everything(self, pid: int = 1) -> None:
        notifier = self.notifier
        notifier.ready("serving")
        notifier.status("busy")
        notifier.watchdog()
        notifier.reloading()
        notifier.stopping("draining")
        notifier.hand_over(pid)


@pytest.fixture(params=["a path", "an abstract name"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    with Manager(tmp_path / "notify") if request.param == "a path" else Manager.abstract() as made:
        yield made


async def test_each_thing_is_said_as_systemd_reads_it(manager: Manager) -> None:
    before = time.monotonic_ns() // 1000
    with Scene(manager.place) as scene:
        scene.say_everything(pid=77)
    after = time.monotonic_ns() // 1000

    ready, status, watchdog, reloading, stopping, handed_over = manager.heard()
    assert ready == "READY=1\nSTATUS=serving"
    assert status == "STATUS=busy"
    assert watchdog == "WATCHDOG=1"
    state, _, at = reloading.partition("\nMONOTONIC_USEC=")
    assert state == "RELOADING=1" and before <= int(at) <= after
    assert stopping == "STOPPING=1\nSTATUS=draining"
    assert handed_over == "MAINPID=77"
    assert scene.log == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("serving 7 routes", "serving 7 routes"),
        ("one\nREADY=1\r\n two", "one READY=1 two"),
        ("ein Stück", "ein Stück"),
        ("half \ud83d", "half ?"),
        ("", ""),
    ],
)
async def test_a_status_is_one_line(text: str, line: str) -> None:
    with Manager.abstract() as manager, Scene(manager.place) as scene:
        scene.notifier.status(text)
        assert manager.heard() == [f"STATUS={line}"]


@pytest.mark.parametrize("place", [None, ""])
async def test_without_a_manager_nothing_is_done(place: str | None) -> None:
    scene = Scene(place, WATCHDOG_USEC="1000")
    scene.say_everything()
    await scene.notifier.all_said()
    scene.notifier.close()

    assert (scene.notifier.interval, scene.notifier.for_successor) == (None, {})
    assert scene.timer.pending == [] and scene.log == []


async def test_its_variables_are_not_left_for_those_it_starts() -> None:
    environ = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    with Manager.abstract() as manager, Scene(manager.place, **environ) as scene:
        assert scene.environ == {"PATH": "/bin"}
        # Whose process id it will be is not known yet, and without one it is for whoever has the variable.
        successor = scene.notifier.for_successor
        assert successor == {"NOTIFY_SOCKET": manager.place, "WATCHDOG_USEC": "30000000"}


async def test_signs_of_life_begin_with_ready_and_come_twice_in_each_interval() -> None:
    with Manager.abstract() as manager, Scene(manager.place, WATCHDOG_USEC="30000000") as scene:
        scene.timer.advance(60)
        assert manager.heard() == []

        scene.notifier.ready()
        assert manager.heard() == ["READY=1", "WATCHDOG=1"]
        scene.timer.advance(14.9)
        assert manager.heard() == []
        scene.timer.advance(0.1)
        assert manager.heard() == ["WATCHDOG=1"]
        scene.notifier.reloading()
        scene.notifier.ready()  # again: no second row of them
        manager.heard()
        scene.timer.advance(45)
        assert manager.heard() == ["WATCHDOG=1"] * 3
        scene.notifier.stopping()
        scene.timer.advance(15)
        assert manager.heard() == ["STOPPING=1", "WATCHDOG=1"]
        scene.notifier.close()
        assert scene.timer.pending == []


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "20000000"}, 10.0),
        ({"WATCHDOG_USEC": "1"}, 0.0000005),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "own"}, 10.0),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "x"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({"WATCHDOG_USEC": "9" * 400}, 2**53 / 2_000_000),
        ({"WATCHDOG_USEC": ""}, None),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_only_a_watchdog_that_is_meant_for_us_is_fed(
    environ: dict[str, str], interval: float | None
) -> None:
    environ = {name: str(os.getpid()) if value == "own" else value for name, value in environ.items()}
    with Manager.abstract() as manager, Scene(manager.place, **environ) as scene:
        scene.notifier.ready()

        assert scene.notifier.interval == interval
        assert ("WATCHDOG=1" in manager.heard()) == (interval is not None)
        assert ("WATCHDOG_USEC" in scene.notifier.for_successor) == (interval is not None)
        scene.notifier.close()


async def test_who_handed_over_says_nothing_more() -> None:
    with Manager.abstract() as manager, Scene(manager.place, WATCHDOG_USEC="2000000") as scene:
        scene.notifier.ready()
        scene.notifier.hand_over(4711)
        assert scene.timer.pending == []
        manager.heard()
        scene.say_everything()
        scene.timer.advance(10)

        assert manager.heard() == []
        assert scene.timer.pending == []


async def test_a_manager_that_is_gone_is_logged_once_and_told_again_when_it_is_back(tmp_path: Path) -> None:
    place = tmp_path / "notify"
    with Scene(str(place)) as scene:
        for _ in range(3):
            scene.notifier.status("nobody is there")
        with Manager(place) as manager:
            scene.notifier.status("somebody is")
            assert manager.heard() == ["STATUS=somebody is"]
        for _ in range(3):
            scene.notifier.ready()

    said = [(line["level"], line["event"], line["reason"]) for line in scene.log]
    assert said == [("warning", "notify_failed", "No such file or directory")] * 2
    assert str(tmp_path) not in scene.err.getvalue()


@pytest.mark.parametrize("place", ["/" + "x" * 200, "vsock:2:1234", "notify", "/", "@", "/\udcff/notify"])
async def test_a_place_where_nobody_can_be_is_logged_and_harmless(place: str) -> None:
    scene = Scene(place, WATCHDOG_USEC="1000000")
    scene.say_everything()
    await scene.notifier.all_said()
    scene.notifier.close()

    (told,) = scene.log
    assert (told["event"], bool(told["reason"])) == ("notify_failed", True)


async def test_what_finds_the_managers_queue_full_is_said_later_and_in_order() -> None:
    with Manager.abstract() as manager, Scene(manager.place) as scene:
        others = manager.fill_up()
        scene.notifier.ready()
        scene.notifier.reloading()
        scene.timer.advance(5)
        said = asyncio.create_task(scene.notifier.all_said())
        await asyncio.sleep(0)
        assert not said.done()
        assert manager.heard() == ["STATUS=another"] * others

        scene.notifier.stopping()
        assert manager.heard() == [], "it overtook what waits"
        scene.timer.advance(0.1)
        await asyncio.wait_for(said, 5)
        assert [message.partition("\n")[0] for message in manager.heard()] == [
            "READY=1",
            "RELOADING=1",
            "STOPPING=1",
        ]
        assert scene.timer.pending == [] and scene.log == []


async def test_of_very_much_that_waits_the_oldest_is_given_up() -> None:
    with Manager.abstract() as manager, Scene(manager.place) as scene:
        manager.fill_up()
        for number in range(100):
            scene.notifier.status(f"{number}")
        manager.heard()
        heard = []
        while scene.timer.pending:
            scene.timer.advance(0.1)
            heard += manager.heard()

        assert heard == [f"STATUS={number}" for number in range(36, 100)]


async def test_what_waits_is_tried_once_more_at_the_end() -> None:
    with Manager.abstract() as manager, Scene(manager.place, WATCHDOG_USEC="2000000") as scene:
        manager.fill_up()
        scene.notifier.hand_over(4711)
        manager.heard()
        scene.notifier.close()

        assert manager.heard() == ["MAINPID=4711"]
        assert scene.timer.pending == []


async def test_a_manager_that_takes_nothing_keeps_nobody_from_ending() -> None:
    with Manager.abstract() as manager, Scene(manager.place) as scene:
        manager.fill_up()
        scene.notifier.ready()
        scene.notifier.close()

        assert scene.timer.pending == []
