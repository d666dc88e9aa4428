"""A TCP forwarder between a component and its router, that can break the connection in three ways and knows what was inside.

`cut('close')`: stops reading, hands on what it has read, then an orderly end on both sides; what still comes is kept in `lost`.
`cut('reset')`: the same, with RST. What arrives between the last read and the RST cannot be known: `lost` is a lower bound.
`stall()`: the connection stays, nothing moves until `resume()`: so a switched-off cable looks.
"""

import fcntl
import re
import selectors
import socket
import struct
import termios
import threading
import time

CHUNK = 1 << 16
DRAIN_LIMIT_S = 2.0
STEP_S = 0.02


class Forwarder:
    def __init__(self, port, ip="127.0.0.1", target_port=5347):
        self.address, self.target = (ip, port), (ip, target_port)
        self.lock = threading.RLock()
        self.selector = selectors.DefaultSelector()
        self.pairs = []
        self.lost = b""
        self.upward = b""  # everything that came from the component
        self.stalled = self.ended = False
        self.listener = None
        self.accepted = 0
        self.restore()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended = True
        self.thread.join(2)
        with self.lock:
            self._refuse()
            for pair in self.pairs:
                pair.close()

    # What a test does

    def cut(self, how="close", oldest=False):
        """Breaks all connections, and refuses new ones until `restore()`; or breaks only the oldest one."""
        with self.lock:
            if not oldest:
                self._refuse()
            broken = self.pairs[:1] if oldest else self.pairs
            for pair in broken:
                for side in pair.sides:
                    self._unwatch(side)
                self._hand_on(pair)
                self.lost += pair.end() if how == "close" else pair.reset()
            self.pairs = [pair for pair in self.pairs if pair not in broken]

    def restore(self):
        """Connections are accepted (again)."""
        with self.lock:
            if self.listener is None:
                self.listener = socket.create_server(self.address, reuse_port=False)
                self.listener.setblocking(False)
                self.selector.register(self.listener, selectors.EVENT_READ, None)

    def stall(self):
        self.stalled = True

    def resume(self):
        self.stalled = False

    def lost_numbers(self, pattern=rb"#(\d+)#"):
        """The numbers of the messages that were inside the broken connections."""
        return {int(number) for number in re.findall(pattern, self.lost)}

    def upward_numbers(self, pattern=rb"#(\d+)#"):
        """The numbers of the messages that the component has sent at all."""
        return {int(number) for number in re.findall(pattern, self.upward)}

    # The loop

    def _refuse(self):
        if self.listener is not None:
            self.selector.unregister(self.listener)
            self.listener.close()
            self.listener = None

    def _unwatch(self, side):
        try:
            self.selector.unregister(side)
        except KeyError:
            pass

    def _run(self):
        while not self.ended:
            if self.stalled:
                time.sleep(STEP_S)
                continue
            try:
                events = self.selector.select(STEP_S)
            except OSError:
                continue
            with self.lock:
                for key, _ in events:
                    if self.stalled:
                        break
                    if key.fileobj is self.listener:
                        self._accept()
                    elif key.data in self.pairs:
                        self._move(key.data, key.fileobj)

    def _accept(self):
        try:
            near, _ = self.listener.accept()
        except OSError:
            return
        try:
            far = socket.create_connection(self.target, timeout=2)
        except OSError:
            near.close()
            return
        self.accepted += 1
        pair = Pair(near, far)
        self.pairs.append(pair)
        for side in pair.sides:
            self.selector.register(side, selectors.EVENT_READ, pair)

    def _move(self, pair, side):
        other = pair.other(side)
        try:
            data = side.recv(CHUNK)
            if data:
                if side is pair.sides[0]:
                    self.upward += data
                send_all(other, data)
                return
        except OSError:
            pass
        for one in pair.sides:
            self._unwatch(one)
        pair.close()
        self.pairs.remove(pair)

    def _hand_on(self, pair):
        """Everything read so far has been written; wait until the kernels have it."""
        end = time.monotonic() + DRAIN_LIMIT_S
        for side in pair.sides:
            while unsent(side) and time.monotonic() < end:
                time.sleep(0.001)


class Pair:
    """Two ends of one forwarded connection."""

    def __init__(self, near, far):
        self.sides = (near, far)
        for side in self.sides:
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            side.setblocking(False)

    def other(self, side):
        return self.sides[1] if side is self.sides[0] else self.sides[0]

    def end(self):
        """Half-closes both sides and reads what comes until their ends: nothing more can have been inside."""
        got = b""
        for side in self.sides:
            try:
                side.shutdown(socket.SHUT_WR)
            except OSError:
                pass
        for side in self.sides:
            side.settimeout(DRAIN_LIMIT_S)
            try:
                while data := side.recv(CHUNK):
                    got += data
            except OSError:
                pass
        self.close()
        return got

    def reset(self):
        got = b""
        for side in self.sides:
            try:
                while data := side.recv(CHUNK):
                    got += data
            except OSError:
                pass
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            side.close()
        return got

    def close(self):
        for side in self.sides:
            side.close()


def send_all(side, data):
    end = time.monotonic() + DRAIN_LIMIT_S * 5
    while data:
        try:
            data = data[side.send(data):]
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            time.sleep(0.001)


def unsent(side):
    """Bytes that the other kernel has not acknowledged."""
    try:
        return struct.unpack("i", fcntl.ioctl(side, termios.TIOCOUTQ, b"\0" * 4))[0]
    except OSError:
        return 0
