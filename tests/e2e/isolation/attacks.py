"""The functions of the isolation tests: one that is attacked, and one that attacks.

Each attack returns "held" with what stopped it, or "open" with what it got. Nothing here is destructive.
"""

VICTIM = """
import ctypes, os, socket, sys

os.makedirs("/tmp", exist_ok=True)
KEY = 0x50454C54
libc = ctypes.CDLL(None, use_errno=True)
kept = []

def main(request):
    if not kept:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("\\0" + os.environ["ABSTRACT"])
        listener.listen()
        kept.append(listener)
        libc.shmget(KEY, 4096, 0o1666)
        for place in ("/tmp", "/dev/shm"):
            try:
                with open(f"{place}/{os.environ['ABSTRACT']}", "w") as file:
                    file.write("mine")
                os.chmod(file.name, 0o666)
            except OSError:
                pass
    environment = [path for path in sys.path if "/environments/" in path]
    return {"pid": os.getpid(), "bundle": os.getcwd(), "environment": environment}
"""

ATTACKER = """
import ctypes, hashlib, os, signal, socket, subprocess, sys, traceback

libc = ctypes.CDLL(None, use_errno=True)
SHM_KEY = 0x50454C54


def tried(paths, attempt):
    said = []
    for path in paths:
        try:
            said.append(f"open: {path}: {attempt(path)!r}")
        except OSError as exc:
            said.append(f"held: {path}: {exc.strerror}")
    return next((line for line in said if line.startswith("open")), "; ".join(said) or "held: nothing to try")


def read(path):
    if os.path.isdir(path):
        return os.listdir(path)[:3]
    with open(path, "rb") as file:
        return file.read(8)


def connect(path, wait=0.5):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(wait)
        sock.connect(path)
        return sock


def hello(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(2)
        sock.connect(path)
        try:
            data = sock.recv(64)
        except TimeoutError:
            raise OSError(0, "connected, but never answered") from None
    if not data:
        raise OSError(0, "hung up on")
    return data


def platform_files(told):
    return tried(told["files"], read)


def source_of_others(told):
    return tried([told["victim"]["bundle"] + "/main.py", *told["victim"]["environment"]], read)


def list_bundles(told):
    mine = os.path.basename(os.getcwd())
    try:
        others = [name for name in os.listdir(told["home"] + "/bundles") if name != mine]
    except OSError as exc:
        return f"held: {exc.strerror}"
    return f"open: {others}" if others else "held: only its own"


def user_files(told):
    return tried([told["private"]], read)


def environment_of_others(told):
    return tried([f"/proc/{pid}/environ" for pid in told["pids"]], read)


def memory_of_others(told):
    said = tried([f"/proc/{pid}/mem" for pid in told["pids"]], lambda path: open(path, "rb").close())
    if said.startswith("open"):
        return said
    for pid in told["pids"]:
        if libc.ptrace(16, pid, 0, 0) == 0:  # PTRACE_ATTACH
            os.waitpid(pid, 0)
            libc.ptrace(17, pid, 0, 0)
            return f"open: traced {pid}"
    return said


def own_memory(told):
    \"\"\"What belongs to others may be left in memory that was forked: search all of it.\"\"\"
    begin_of_it, rest = told["secret"].encode(), told["rest"]
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            span, rights = line.split()[:2]
            if "r" not in rights or "[v" in line:
                continue
            begin, end = (int(word, 16) for word in span.split("-"))
            try:
                memory.seek(begin)
                data = memory.read(end - begin)
            except (OSError, ValueError, OverflowError):
                continue
            at = data.find(begin_of_it)
            while at >= 0:
                after = data[at + len(begin_of_it) : at + len(begin_of_it) + 16]
                if hashlib.sha256(after).hexdigest() == rest:
                    return f"open: found in {line.split()[-1]}"
                at = data.find(begin_of_it, at + 1)
    return "held: not found"


def see_processes(told):
    others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return f"open: {others[:5]}" if others else "held: only itself"


def signal_others(told):
    if told["deep"]:
        reached = []
        for pid in range(1, 70000):
            try:
                os.kill(pid, 0)
                reached.append(pid)
            except OSError:
                continue
        own = {int(name) for name in os.listdir("/proc/self/task")}  # kill takes a thread for its process
        reached = [pid for pid in reached if pid not in own]
        return f"open: {reached[:5]}" if reached else "held: none of 70000 pids"
    return tried(told["pids"], lambda pid: os.kill(pid, 0))


def control_sockets(told):
    return tried(told["control"], hello)


def gateway_sockets(told):
    return tried(told["gateway"], connect)


def instance_http(told):
    return tried(told["http"], connect)


def load_pages(told):
    return tried(told["pages"], read)


def abstract_sockets(told):
    return tried(["\\0" + told["abstract"]], connect)


def user_services(told):
    return tried([told["service"]], connect)


def temporary_files(told):
    return tried([f"/tmp/{told['abstract']}", f"/dev/shm/{told['abstract']}"], read)


def shared_memory(told):
    found = libc.shmget(SHM_KEY, 4096, 0)
    return f"open: segment {found}" if found >= 0 else f"held: {os.strerror(ctypes.get_errno())}"


def write_files(told):
    def write(path):
        with open(path, "w") as file:
            file.write("x")
        os.unlink(path)
    others = told["victim"]["bundle"]
    return tried(["intruder", told["writable"] + "/intruder", "/etc/intruder", others + "/intruder"], write)


def gain_privileges(told):
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    inner = int(fields["CapEff"].strip(), 16)
    return "held: no_new_privs" if fields["NoNewPrivs"].strip() == "1" and inner == 0 else f"open: {inner:x}"


def use_api(told):
    import ssl, urllib.request, urllib.error
    context = ssl._create_unverified_context()
    try:
        urllib.request.urlopen(told["api"] + "/api/v1/namespaces/default/secrets", context=context, timeout=5)
    except urllib.error.HTTPError as exc:
        return f"held: {exc.code}" if exc.code in (401, 403) else f"open: {exc.code}"
    return "open: answered"


def use_bus(told):
    host, port = told["bus"]
    with socket.create_connection((host, port), 5) as sock:
        sock.recv(4096)
        sock.sendall(b'CONNECT {"verbose":true}\\r\\nPING\\r\\n')
        said = sock.recv(4096)
    return f"held: {said!r}" if said.startswith(b"-ERR") else f"open: {said!r}"


def linger(told):
    \"\"\"Leave a process behind that is nobody's child, in a session of its own.\"\"\"
    code = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(300)"
    subprocess.run([told["python"], "-S", "-c", code, told["mark"]], check=True)
    return "held: started"


def main(request):
    told = request.get_json()
    told["pids"] = [pid for pid in told.get("pids", ()) if pid != os.getpid()]
    try:
        return {"said": globals()[told["attack"].replace("-", "_")](told), "pid": os.getpid()}
    except Exception:
        return {"said": "failed: " + traceback.format_exc()}
"""
