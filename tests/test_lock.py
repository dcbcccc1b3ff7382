import threading

from melody_jax import lock


def test_the_second_waits_and_says_who_works(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(lock, "_WAIT_SECONDS", 0.01)
    first = lock.claim(tmp_path / "set" / "lock")
    assert first is not None and lock.claim(tmp_path / "set" / "lock") is None
    entered = threading.Event()

    def second():
        with lock.waiting(tmp_path / "set" / "lock", "data set mine"):
            entered.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not entered.wait(0.2)
    first.close()
    assert entered.wait(10)
    thread.join()
    error = capsys.readouterr().err
    assert error.startswith("data set mine: process ") and "waiting for its end" in error and error.count("\n") == 1
