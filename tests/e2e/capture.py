"""Everything that passes one machine's port of the bridge, as it is on the wire."""

import socket
import struct
import threading

ETH_P_ALL = 3
BYTES_MAX = 256 << 20


class Capture:
    """Records from `with` on. `bytes()`: all frames together; `flow(...)`: one direction of one TCP connection, in order."""

    def __init__(self, hub, place):
        with hub.inside():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self.socket.bind(("v-" + place.name, ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self.socket.settimeout(0.2)
        self.frames, self.size, self.on = [], 0, True
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.on = False
        self.thread.join(2)
        self.socket.close()

    def _run(self):
        while self.on and self.size < BYTES_MAX:
            try:
                frame = self.socket.recv(1 << 17)
            except TimeoutError:
                continue
            self.frames.append(frame)
            self.size += len(frame)

    def bytes(self):
        return b"".join(self.frames)

    def segments(self):
        """(source, source port, destination, destination port, sequence, flags, payload) of each TCP segment over IPv4."""
        for frame in self.frames:
            if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_TCP:
                continue
            ip = frame[14:14 + struct.unpack("!H", frame[16:18])[0]]
            tcp = ip[(ip[0] & 15) * 4:]
            source, target, sequence = struct.unpack("!HHI", tcp[:8])
            yield (socket.inet_ntoa(ip[12:16]), source, socket.inet_ntoa(ip[16:20]), target, sequence, tcp[13], tcp[(tcp[12] >> 4) * 4:])

    def dialled(self, port):
        """What the dialling side said on each connection to `port` whose beginning was seen: [(source, destination, bytes)]."""
        flows, starts = {}, {}
        for source, source_port, target, target_port, sequence, flags, payload in self.segments():
            key = (source, source_port, target)
            if target_port != port:
                continue
            if flags & 2:
                starts[key], flows[key] = (sequence + 1) & 0xFFFFFFFF, {}
            elif payload and key in flows:
                flows[key].setdefault((sequence - starts[key]) & 0xFFFFFFFF, payload)
        result = []
        for (source, _, target), pieces in flows.items():
            data = b""
            for offset in sorted(pieces):
                if offset <= len(data):
                    data += pieces[offset][len(data) - offset:]
            result.append((source, target, data))
        return result
