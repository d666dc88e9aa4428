"""Machines as name spaces: each with a network, a host name, a hosts file and a DNS server of its own, on one bridge.

A place is held by a sleeping process and has no name outside: what runs in it is entered with `nsenter`, and all of it goes with the cage.
"""

import contextlib
import ctypes
import os
import subprocess

CLONE_NEWNET = 0x40000000
LIMIT_S = 10.0
NETWORK = "10.66.0."
PEER_PORT = 5348

_libc = ctypes.CDLL(None, use_errno=True)


class Home:
    """The cage itself, where tests of one machine run."""

    def command(self, arguments):
        return list(arguments)

    def inside(self):
        return contextlib.nullcontext()

    def proc_net(self):
        return "/proc/thread-self/net"


HOME = Home()


class Place:
    """One machine's name spaces. `hosts` is the text of its hosts file, `address` its last byte on the bridge."""

    def __init__(self, name, folder, hosts="", dns=True):
        self.name, self.hosts_path = name, os.path.join(folder, name + ".hosts")
        with open(self.hosts_path, "w", encoding="utf-8") as file:
            file.write("127.0.0.1 localhost\n" + hosts)
        script = 'hostname "$1" && mount --bind "$2" /etc/hosts && ip link set lo up && echo ready && exec sleep infinity'
        self.holder = subprocess.Popen(["unshare", "--net", "--uts", "--mount", "sh", "-c", script, "sh", name + ".example.net", self.hosts_path],
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        assert self.holder.stdout.readline() == b"ready\n", "no name spaces for %s" % name
        self.dns = None
        if dns:
            # Without rotation: a foreign server that dials back meets a machine that is alive first, not by chance one that
            # died silently, for which it waits as long as it likes.
            self.dns = subprocess.Popen(self.command(["dnsmasq", "-k", "--conf-file=/dev/null", "--no-resolv", "--no-round-robin", "--local=/#/", "--listen-address=127.0.0.1",
                                                      "--bind-interfaces", "--user=root", "--pid-file=", "--log-facility=-"]),
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def command(self, arguments):
        """The command line that runs `arguments` here; the process keeps its pid."""
        return ["nsenter", "--target=%d" % self.holder.pid, "--net", "--uts", "--mount", "--", *arguments]

    def run(self, *arguments, text=None):
        """Runs a short command here; its output."""
        done = subprocess.run(self.command(arguments), input=text, capture_output=True, text=True, timeout=LIMIT_S)
        assert done.returncode == 0, "%s: %s" % (" ".join(arguments), done.stderr)
        return done.stdout

    @contextlib.contextmanager
    def inside(self):
        """Sockets made by this thread in the block belong to this place, for good."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open("/proc/%d/ns/net" % self.holder.pid, os.O_RDONLY)
        try:
            enter(there)
            yield
        finally:
            enter(home)
            os.close(home)
            os.close(there)

    def proc_net(self):
        return "/proc/%d/net" % self.holder.pid

    def close(self):
        for process in (self.dns, self.holder):
            if process is not None:
                process.kill()
                process.wait(LIMIT_S)
        self.holder.stdout.close()


def enter(namespace):
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


NFT_HUB = """table bridge fault {
  chain cut {
    type filter hook forward priority 0;
  }
}
"""
NFT_MACHINE = """table inet fault {
  chain in {
    type filter hook input priority 0;
  }
}
"""


class Hub(Place):
    """The bridge between machines, and all that goes wrong on the way."""

    def __init__(self, folder):
        super().__init__("hub", folder, dns=False)
        self.run("sh", "-c", "ip link add br0 type bridge && ip addr add %s1/24 dev br0 && ip link set br0 up" % NETWORK)
        self.run("nft", "-f", "-", text=NFT_HUB)

    def attach(self, place, number):
        """Gives the place the address NETWORK + number; the same hardware address after each return."""
        self.run("sh", "-c", "ip link add v-{0} type veth peer name eth0 address 02:00:00:00:00:{1:02x} netns {2} && ip link set v-{0} master br0 up".format(
            place.name, number, place.holder.pid))
        place.run("sh", "-c", "ip addr add %s%d/24 dev eth0 && ip link set eth0 up" % (NETWORK, number))
        place.run("nft", "-f", "-", text=NFT_MACHINE)

    def detach(self, place):
        """The cable is gone, and with it whatever the place still had to send."""
        self.run("ip", "link", "del", "v-" + place.name)

    def has(self, place):
        return os.path.exists("/proc/%d" % self.holder.pid) and " v-%s" % place.name in self.run("ip", "-o", "link")

    # Partitions: packets vanish, nobody is told.

    def cut(self, place):
        """Nothing from or to the place passes."""
        self.run("nft", "-f", "-", text="".join("add rule bridge fault cut %s \"v-%s\" ether type ip drop\n" % (way, place.name)
                                                for way in ("iifname", "oifname")))

    def cut_one_way(self, sender, receiver):
        """What `sender` says does not reach `receiver`; the opposite direction works."""
        self.run("nft", "add rule bridge fault cut iifname \"v-%s\" oifname \"v-%s\" ether type ip drop" % (sender.name, receiver.name))

    def heal(self):
        """Ends all partitions."""
        self.run("nft", "flush", "chain", "bridge", "fault", "cut")

    # The bytes between two nodes.

    def unplug(self, place, plugged=False):
        """The switch's port goes down: the same as `cut`, but both kernels see that the carrier is lost."""
        self.run("ip", "link", "set", "v-" + place.name, "up" if plugged else "down")


def reset_peers(place, pause_s=0.03):
    """Every peer connection of the place is reset: whatever its peers send meets RST, and so do then its own packets."""
    place.run("sh", "-c", "nft add rule inet fault in tcp dport {0} reject with tcp reset && nft add rule inet fault in tcp sport {0} reject with tcp reset"
                          " && sleep {1} && nft flush chain inet fault in".format(PEER_PORT, pause_s))


def alter_byte(place, offset=60):
    """From now on one byte of each packet of more than 200 bytes that comes from a peer is another."""
    # Bits into the TCP header: 32 bytes of it, then the payload.
    place.run("nft", "add rule inet fault in iifname eth0 tcp dport {0} meta length gt 200 @th,{1},8 set 0x5a counter"
                     .format(PEER_PORT, (32 + offset) * 8))
    place.run("nft", "add rule inet fault in iifname eth0 tcp sport {0} meta length gt 200 @th,{1},8 set 0x5a counter"
                     .format(PEER_PORT, (32 + offset) * 8))


def clear_faults(place):
    place.run("nft", "flush", "chain", "inet", "fault", "in")
