#!/usr/bin/env python3
"""Drives an emulated card from Python, by the standard library alone.

    applet-sim new card.json
    python3 control.py applet-sim card.json

It starts applet-sim without a reader, reads the card's EID, has it fail in two
ways, and ends it. docs/emulator.md in cardbridge's tree has the protocol.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile


class Refused(Exception):
    """The emulator's {"ok": false}: code and message."""


class Card:
    """An emulated card that runs as a program of its own."""

    def __init__(self, program, image):
        self._dir = tempfile.TemporaryDirectory()
        path = os.path.join(self._dir.name, "control")
        self._program = subprocess.Popen(
            [program, "--card", image, "--control", path], stdout=subprocess.PIPE, text=True)
        self._program.stdout.readline()  # "control PATH": it listens
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(60)
        self._socket.connect(path)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        self.hello = json.loads(self._lines.readline())
        self.events = []  # with trace on: what came between responses

    def ask(self, op, **members):
        """One request; gives its response."""
        self._socket.sendall((json.dumps({"v": 1, "op": op, **members}) + "\n").encode())
        while True:
            line = json.loads(self._lines.readline())
            if "event" in line:
                self.events.append(line)
            elif line["ok"]:
                return line
            else:
                raise Refused(line["error"]["code"], line["error"]["message"])

    def transmit(self, apdu):
        """One command APDU, in hexadecimal; gives (data, status word)."""
        answer = self.ask("transmit", apdu=apdu)["apdu"]
        return answer[:-4], answer[-4:]

    def close(self):
        """Ends the program; gives its exit status."""
        self.ask("quit")
        self._socket.close()
        status = self._program.wait(60)
        self._program.stdout.close()
        self._dir.cleanup()
        return status


def main(program, image):
    card = Card(program, image)
    print("EID", card.hello["eid"])
    card.ask("trace", on=True)

    select = "00A404000BF06361726462726964676500"
    assert card.transmit(select)[1] == "9000"
    data, sw = card.transmit("80CA005A00")  # GET DATA
    assert (data, sw) == ("5A10" + card.hello["eid"], "9000"), (data, sw)

    # The next answer has another status word.
    card.ask("fault.set", fault={"kind": "wrong-sw", "sw": "6F00"})
    assert card.transmit("80CA005A00")[1] == "6F00"
    assert card.transmit("80CA005A00")[1] == "9000"

    # The card leaves at the second command from now, and comes back by itself.
    card.ask("fault.set", fault={"kind": "remove-before", "apdu": 2, "away": "10ms"})
    assert card.transmit("80CA005A00")[1] == "9000"
    try:
        card.transmit("80CA005A00")
        raise AssertionError("the card has left")
    except Refused as refused:
        assert refused.args[0] == "no-answer", refused
    while not card.ask("state")["state"]["inserted"]:
        pass
    assert card.transmit("80CA005A00")[1] == "6985"  # the applet is to be selected again

    for event in card.events:
        if event["event"] == "fault":
            print("struck", json.dumps(event["strike"]["what"]))
    profiles = card.ask("state")["state"]["profiles"]
    print("enabled", [p["iccid"] for p in profiles if p["state"] == "enabled"])
    return card.close()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
