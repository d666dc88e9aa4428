"""A foreign server: Prosody, with one domain and the user `pu`."""

import os
import subprocess

import bed
from place import HOME

AS_PROSODY = ["setpriv", "--reuid=prosody", "--regid=prosody", "--clear-groups"]


class Prosody(bed.Process):
    def __init__(self, folder, domain, ip, place=HOME, pem=None, resolver='unbound = { hoststxt = "/etc/hosts", resolvconf = false }'):
        """`pem`: certificate and key in one file: then it offers TLS, and uses it where it is offered."""
        os.makedirs(folder + "/data")
        config = folder + "/prosody.cfg.lua"
        if pem:
            with open(pem, "rb") as source, open(folder + "/both.pem", "wb") as target:
                target.write(source.read())
        with open(config, "w", encoding="utf-8") as file:
            file.write("""pidfile = "{0}/prosody.pid"; data_path = "{0}/data"; admin_socket = "{0}/prosody.sock"
log = {{ {{ levels = {{ min = "debug" }}, to = "file", filename = "{0}/prosody.log" }} }}
interfaces = {{ "{1}" }}; modules_enabled = {{ "roster", "saslauth", "dialback", "disco", "ping", "offline", "presence", "message", "iq"{4} }}
{3}; authentication = "internal_plain"; c2s_require_encryption = false
allow_unencrypted_plain_auth = true; use_ipv6 = false; s2s_require_encryption = false; s2s_secure_auth = false
{5}
VirtualHost "{2}"
{6}
""".format(folder, ip, domain, 'modules_disabled = { %s"s2s_auth_certs" }' % ('' if pem else '"tls", '), ', "tls"' if pem else "", resolver,
           'ssl = {{ certificate = "{0}/both.pem", key = "{0}/both.pem" }}'.format(folder) if pem else ""))
        subprocess.run(["chown", "-R", "prosody:prosody", folder], check=True)
        subprocess.run(place.command([*AS_PROSODY, "prosodyctl", "--config", config, "register", "pu", domain, "secret"]), check=True, capture_output=True)
        super().__init__("server", [*AS_PROSODY, "prosody", "-F", "--config", config], folder, place=place)
        bed.wait_for("prosody listens", lambda: all(bed.listens(ip, port, place) for port in (5222, 5269)), 15)

    def own_log(self):
        with open(self.folder + "/prosody.log", encoding="utf-8", errors="replace") as file:
            return file.read()


def pem_file(folder, name="router", password=None):
    """Certificate and key in one file, as jabberd2 wants them; the key encrypted, if there is a password."""
    key, certificate, both = (os.path.join(folder, part + ".pem") for part in ("k", "c", "both"))
    sealed = ["-passout", "pass:" + password] if password else ["-nodes"]
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", *sealed, "-days", "2", "-subj", "/CN=" + name, "-addext",
                    "subjectAltName=DNS:" + name, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with open(both, "wb") as file:
        for part in (certificate, key):
            with open(part, "rb") as source:
                file.write(source.read())
    return both
