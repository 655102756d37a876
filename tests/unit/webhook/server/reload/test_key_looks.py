from threading import Event

from webhook.server.reload.key_looks import KeyLooks


def test_a_flood_of_questions_is_two_looks() -> None:
    began, go_on, looks = Event(), Event(), list[int]()

    def look() -> None:
        began.set()
        go_on.wait()
        looks.append(len(looks))

    keys = KeyLooks(look)
    first = keys.ask()
    began.wait()
    others = [keys.ask() for _ in range(1000)]
    assert first not in others
    assert len(set(others)) == 1
    go_on.set()
    others[0].result()
    assert looks == [0, 1]
    keys.ask().result()
    assert looks == [0, 1, 2]
