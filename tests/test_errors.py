"""Names in messages."""

import os

from lambdanets.errors import UserError, printable


def test_a_name_of_any_bytes_becomes_one_line_of_utf_8():
    assert printable("Straße 東京 🐱 [b].jpg") == "Straße 東京 🐱 [b].jpg"
    assert printable("a\nb\tc\x1b[31m") == "a\\nb\\tc\\x1b[31m"
    name = printable(os.fsdecode(bytes(range(1, 256))))
    assert name.encode().decode() == name
    assert len(name.splitlines()) == 1


def test_a_user_error_can_be_written_whatever_names_it_has():
    error = UserError("The image '\udcff' can't be read:\nthe disk is full.")
    assert str(error) == "The image '\\udcff' can't be read:\nthe disk is full."
    assert str(error).encode()


def test_the_error_of_a_worker_process_keeps_its_message_alone():
    traceback = (
        "Caught UserError in DataLoader worker process 0.\nTraceback …\nlambdanets.errors.UserError: it is damaged.\n"
    )
    assert str(UserError(traceback)) == "it is damaged."
