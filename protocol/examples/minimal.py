"""A minimal client for Linux: minimal.py listen CHANNEL, or minimal.py send CHANNEL TEXT..."""
import io, os, socket, struct, sys

HEADER = struct.Struct("<IBBHIQQ")  # length, kind, flags, meta_bytes, channel id, sender id, sequence
PUBLISH, BATCH, RETAIN, HELLO, WELCOME, REFUSED, GOODBYE, OPEN, OPENED = 1, 2, 4, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21
SUBSCRIBE, SUBSCRIBED, LAGGED, NAMED, DECLINED, INSPECT, REPORT, OPTIONAL = 0x22, 0x23, 0x24, 0x25, 0x28, 0x80, 0x81, 1

def number(n):
    marker, size = ("", 1) if n < 251 else ("fb", 2) if n < 1 << 16 else ("fc", 4) if n < 1 << 32 else ("fd", 8)
    return bytes.fromhex(marker) + n.to_bytes(size, "little")

def text(s):
    return number(len(s.encode())) + s.encode()

class Body(io.BytesIO):  # the fields of a control message, in order; bytes after the known fields are skipped
    def number(self):
        first = self.read(1)[0]
        return first if first < 251 else int.from_bytes(self.read({251: 2, 252: 4, 253: 8}[first]), "little")
    def text(self):
        return self.read(self.number()).decode()

class Bus:
    def __init__(self, purpose):
        self.socket, self.payload_bytes_max = connect(), 0
        self.input = self.socket.makefile("rb")
        sender_number = int.from_bytes(os.urandom(4), "little")
        self.write(HELLO, b"SBUS" + number(1) + number(1) + number(0) + number(os.getpid())
                   + number(sender_number) + text(purpose) + text("minimal.py") + number(0))
        *_, welcome = self.read(WELCOME)
        _, _, self.sender, self.payload_bytes_max = [welcome.number() for _ in range(4)]
    def write(self, kind, body, channel=0, sender=0, sequence=0):
        self.socket.sendall(HEADER.pack(len(body), kind, 0, 0, channel, sender, sequence) + body)
    def exactly(self, size):
        data = self.input.read(size)
        return data if len(data) == size else sys.exit("the connection has ended")
    def read(self, *wanted):
        while True:
            length, kind, flags, meta, channel, sender, sequence = HEADER.unpack(self.exactly(28))
            if length > (self.payload_bytes_max + meta if kind in (PUBLISH, RETAIN) else 4096):
                sys.exit(f"a frame of kind {kind:#04x} announces {length} bytes")
            body = self.exactly(length)
            if kind in wanted:
                return kind, channel, sender, sequence, body[meta:] if kind <= RETAIN else Body(body)
            if kind in (REFUSED, GOODBYE, DECLINED):
                sys.exit(f"the daemon does not serve this: {body!r}")
            if not flags & OPTIONAL:
                sys.exit(f"unexpected frame of kind {kind:#04x}")

def connect():
    runtime = [f"/run/user/{os.geteuid()}", os.environ.get("XDG_RUNTIME_DIR", "/run")]
    given = os.environ.get("BROADCASTER_SOCKET")
    for path in [given] if given else [f"{directory}/broadcaster/bus.sock" for directory in runtime]:
        stream = socket.socket(socket.AF_UNIX)
        if stream.connect_ex(path) == 0:
            _, uid, _ = struct.unpack("iII", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return stream if uid == os.geteuid() else sys.exit(f"{path} belongs to user {uid}")
    sys.exit("no daemon is running: start one with `broadcasterd start`")

def send(channel, payloads):
    bus = Bus("send")
    bus.write(OPEN, text(channel) + number(0) + number(0))
    *_, opened = bus.read(OPENED)
    _, channel_id, listeners = opened.text(), opened.number(), opened.number()
    for sequence, payload in enumerate(payload.encode() for payload in payloads):
        if len(payload) > bus.payload_bytes_max:
            sys.exit(f"the payload has {len(payload)} bytes; the limit is {bus.payload_bytes_max}")
        bus.write(PUBLISH, payload, channel_id, bus.sender, sequence)
    bus.write(INSPECT, number(0))  # the answer confirms that the daemon has accepted all messages before it
    bus.read(REPORT)
    print(f"{len(payloads)} messages sent, {listeners} listeners when the channel was opened")

def listen(channel):
    bus, names = Bus("listen"), {}
    bus.write(SUBSCRIBE, number(1) + number(0) + text(channel) + number(0) + b"\0" + number(0))
    bus.read(SUBSCRIBED)
    while True:
        kind, channel_id, sender, sequence, body = bus.read(PUBLISH, RETAIN, BATCH, LAGGED, NAMED)
        if kind == NAMED:
            channel_id, name = body.number(), body.text()
            names[channel_id] = name
        elif kind == LAGGED:
            print(f"{names[body.number()]}: {body.number()} messages lost here", flush=True)
        else:
            for sequence, payload in enumerate(records(body) if kind == BATCH else [body], sequence):
                print(f"{names[channel_id]}: sender {sender:#x}, message {sequence}: {payload!r}", flush=True)

def records(batch):
    while batch:
        end = 4 + int.from_bytes(batch[:4], "little")
        yield batch[4:end]
        batch = batch[end:]

if len(sys.argv) > 2 and sys.argv[1] in ("send", "listen"):
    send(sys.argv[2], sys.argv[3:]) if sys.argv[1] == "send" else listen(sys.argv[2])
else:
    sys.exit(__doc__)
