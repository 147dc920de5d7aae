# SPDX-License-Identifier: Apache-2.0
"""Builds inlay plainly and with sanitizers, runs every suite on them, and counts. See tests/run."""
import json
import os
import pathlib
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as xml

TOP = pathlib.Path(__file__).resolve().parents[1]
os.chdir(TOP)
LOGS = TOP / "build-tests"
LOGS.mkdir(exist_ok=True)
counts = {"passed": 0, "failed": 0, "skipped": 0}
started = time.monotonic()

SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1",
}


def say(*text):
    print(f"[{time.monotonic() - started:5.0f} s]", *text, flush=True)


def result(kind, name, output=""):
    counts[kind] += 1
    if kind == "failed":
        say("FAILED", name)
        print(output[-6000:], flush=True)


def command(name, *args, env=None):
    """One step that passes or fails as a whole."""
    r = subprocess.run([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       env=dict(os.environ, **(env or {})))
    output = r.stdout.decode(errors="replace")
    result("failed" if r.returncode else "passed", name, output)
    return r.returncode == 0


def build(where, *options):
    say("building", where)
    if not (TOP / where / "build.ninja").exists():
        if not command(f"set up {where}", "meson", "setup", where, "-Dwerror=true", *options):
            return False
    return command(f"build {where}", "ninja", "-C", where)


def cases(output):
    """cmocka's lines, for a test program that failed."""
    return "\n".join(line for line in output.splitlines() if "RUN" not in line and "OK ]" not in line)


def meson_tests(where, *options):
    say("unit, fault and corpus tests of", where)
    subprocess.run(["meson", "test", "-C", where, "--no-rebuild", "--timeout-multiplier", "4", *options],
                   stdout=subprocess.DEVNULL, env=dict(os.environ, **SANITIZERS))
    for line in open(TOP / where / "meson-logs/testlog.json"):
        test = json.loads(line)
        kind = {"OK": "passed", "SKIP": "skipped"}.get(test["result"], "failed")
        output = test.get("stdout", "") + test.get("stderr", "")
        if kind == "skipped":
            say("skipped", test["name"], output.strip()[-200:])
        ran = len(re.findall(r"\[       OK \]", output))
        # A cmocka program counts as its cases.
        if kind == "passed" and ran:
            counts["passed"] += ran
        else:
            result(kind, f"{where}: {test['name']}", cases(output))


def end_to_end(where, *options):
    say("end to end tests of", where)
    report = LOGS / f"e2e-{where}.xml"
    report.unlink(missing_ok=True)
    r = subprocess.run(["/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "300",
                        "-n", str((os.cpu_count() or 1) + 1), # they wait more than they work
                        "--tb=short", f"--junitxml={report}", "tests/e2e", *options],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       env=dict(os.environ, INLAY_BUILD=str(TOP / where), PYTHONDONTWRITEBYTECODE="1",
                                **SANITIZERS))
    if not report.exists():
        result("failed", f"e2e of {where}", r.stdout.decode(errors="replace"))
        return
    for case in xml.parse(report).getroot().iter("testcase"):
        name = f"{where}: {case.get('classname')}.{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        skip = case.find("skipped")
        if bad is not None:
            result("failed", name, (bad.text or "") + (bad.get("message") or ""))
        elif skip is not None:
            say("skipped", name, skip.get("message"))
            counts["skipped"] += 1
        else:
            counts["passed"] += 1


def main():
    quick = "quick" in sys.argv[1:]
    command("lint", "/usr/bin/python3", "tests/lint")
    if build("build"):
        say("building inlayd for arm64")
        command("build for arm64", "bash", "tests/cross-arm64", "build")
        command("inlayd for arm64 runs", "qemu-aarch64-static", "build/inlayd-aarch64", "version")
    if build("build-asan", "-Db_sanitize=address,undefined", "-Db_lundef=false"):
        meson_tests("build-asan")
    if build("build-tsan", "-Db_sanitize=thread", "-Db_lundef=false"):
        meson_tests("build-tsan", "--suite", "threads")
    end_to_end("build")
    if not quick:
        end_to_end("build-asan", "-m", "not release")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped", flush=True)
    return 1 if counts["failed"] else 0


sys.exit(main())
