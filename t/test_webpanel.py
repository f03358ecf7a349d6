"""The web panel, as its WSGI server and a browser see it, on a real system."""

import contextlib
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import harp
import pytest
from harp import jobid, testing
from harp.auth import passwords
from harp.auth.command import set_entry

from conftest import TOP
from wsgi_client import Browser

EXAMPLE = TOP / "examples" / "webpanel"
sys.path.append(str(EXAMPLE))

from webpanel import app, settings, stream, users, web  # noqa: E402

PROCEDURES = '''
import time
from harp import ProcedureError, procedure, streaming_procedure

@procedure
def add(a: int, b: int = 1):
    """Return the sum."""
    return a + b

@procedure
def echo(*values, **named):
    return [values, named]

@procedure
def set_password(user, password):
    return f"{user} has a new password"

@procedure
def fail(message="it failed"):
    raise ProcedureError(message, type="Broken", data={"why": message})

@streaming_procedure
def say(*values):
    yield from values

@streaming_procedure
def say_and_wait(count: int = 3):
    for number in range(count):
        yield f"line {number}"
    while True:
        time.sleep(600)

@procedure
def wait(seconds=600):
    time.sleep(seconds)
'''

SECONDS = 30


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    directory = tmp_path_factory.mktemp("webpanel")
    file = directory / "procedures.py"
    file.write_text(PROCEDURES)
    changes = {"audit": {"file": directory / "audit.log"}}
    with testing.Servers(
        file, directory / "servers", hosts=["web01", "web02"], dispatcher=changes
    ) as servers:
        yield servers


@pytest.fixture
def rpc(system):
    with system.caller() as rpc:
        yield rpc


@pytest.fixture
def panel_settings(tmp_path, system):
    users = str(tmp_path / "users")
    set_entry(users, "alice", passwords.write_random("wonderland"))
    set_entry(users, "<b id=evil>", passwords.write_random("bold"))
    (tmp_path / "secret").touch(mode=0o600)
    (tmp_path / "secret").write_text("s" * 64)
    return settings.Settings(
        users_file=users,
        secret_file=str(tmp_path / "secret"),
        dispatcher="harp://%s:%d" % system.dispatcher_address,
        login_delay=0.01,
        events=True,
        max_events=1,
    )


@pytest.fixture
def make_panel(request):
    """``make_panel(settings)`` returns a panel, whose connections are closed."""

    def make(found):
        made = app.Panel(found)
        request.addfinalizer(made.rpc.close)
        return made

    return make


@pytest.fixture
def panel(make_panel, panel_settings):
    return make_panel(panel_settings)


@pytest.fixture
def browser(panel):
    """One who is logged in as alice."""
    browser = Browser(panel)
    assert browser.log_in("alice", "wonderland").status == 303
    return browser


@pytest.fixture(autouse=True)
def _nothing_runs_on(rpc):
    yield
    for state in ("queued", "running"):
        for status in list(rpc.jobs(state=state)):
            rpc.job(status["job_id"]).cancel()


def call(browser, procedure, on="web01", hosts=None, **fields):
    """Send the form of a procedure."""
    form = {"on": on, "procedure": procedure, "host": hosts or [on]}
    form["form"] = fields.pop("form", None) or jobid.make()
    return browser.post("/call", {**form, **fields.pop("more", {}), **fields})


def job_of(answer, rpc):
    """The job that a form has led to."""
    assert answer.status == 303, answer.body.decode()
    return rpc.job(answer.location.rpartition("/")[2])


def query_of(answer):
    assert answer.status == 303, answer.body.decode()
    return dict(urllib.parse.parse_qsl(answer.location.partition("?")[2]))


# --- who may -------------------------------------------------------------------------

POSTS = [path for path, methods in app.ROUTES.items() if "POST" in methods]
GETS = [path for path, methods in app.ROUTES.items() if "GET" in methods]
SOME_ID = jobid.make()


def test_pages_lead_those_who_are_not_logged_in_to_the_login(panel):
    for path in GETS:
        if path != "/login":
            address = path.replace("{id}", SOME_ID) + "?name=web01"
            answer = Browser(panel).get(address)
            assert query_of(answer) == {"next": address}
            assert answer.location.startswith("/login?")


def test_forms_of_those_who_are_not_logged_in_are_refused(panel):
    browser = Browser(panel)
    for path in POSTS:
        if path != "/login":
            answer = browser.post(path.replace("{id}", SOME_ID), {"on": "web01"})
            assert answer.status == 403 and "not logged in" in answer.page.heading


def test_forms_without_the_token_of_the_session_do_nothing(panel, rpc):
    browser, other = Browser(panel), Browser(panel)
    for one in (browser, other):
        one.log_in("alice", "wonderland")
    job = rpc.web01.wait()
    form = {"on": "web01", "procedure": "add", "host": "web01", "arg.a": "1"}
    before = len(list(rpc.jobs()))
    for path in POSTS:
        address = path.replace("{id}", job.id())
        for token in ("", "x", "ü", other.token(), browser.token()[:-1]):
            answer = browser.post(address, form, token)
            assert answer.status == 403 and "not of your session" in answer.page.heading
    assert len(list(rpc.jobs())) == before
    assert job.status()["state"] != "done"
    assert browser.get("/jobs").status == 200


def test_login_leads_back_to_where_one_was(panel):
    browser = Browser(panel)
    answer = browser.get("/jobs?state=running")
    page = browser.page(answer.location)
    target = page.one("input", name="next").attributes["value"]
    form = {"user": "alice", "password": "wonderland", "next": target}
    assert browser.post("/login", form).location == "/jobs?state=running"
    assert browser.page("/jobs").one("span", **{"class": "user"}).text == "alice"


def test_login_leads_to_no_other_site(panel):
    for target in ("//evil", "https://evil", "/\\evil", "x", "/a\r\nX: y"):
        form = {"user": "alice", "password": "wonderland", "next": target}
        assert Browser(panel).post("/login", form).location == "/"


def test_wrong_login_tells_the_same_whoever_it_is(panel):
    browser = Browser(panel)
    answers = [
        browser.log_in("alice", "x"),
        browser.log_in("nobody", "wonderland"),
        browser.log_in("", ""),
        browser.log_in("alice:sha256", "x"),
    ]
    assert {answer.status for answer in answers} == {403}
    assert len({answer.page.text for answer in answers}) == 1
    assert browser.get("/jobs").status == 303


def test_wrong_login_takes_longer_each_time(panel, monkeypatch):
    slept = []
    monkeypatch.setattr(users.time, "sleep", slept.append)
    for _ in range(3):
        assert Browser(panel).log_in("alice", "x").status == 403
    assert slept == [0.01, 0.02, 0.04]


def test_those_who_guess_do_not_hold_all_threads(panel, browser):
    with panel.users._turn(), panel.users._turn():
        answer = Browser(panel).log_in("alice", "wonderland")
        assert answer.status == 429 and "Retry-After" in answer.headers
        assert browser.get("/jobs").status == 200
    assert Browser(panel).log_in("alice", "wonderland").status == 303


def test_cookie_is_for_no_script_and_no_other_site(panel):
    answer = Browser(panel).log_in("alice", "wonderland")
    parts = answer.headers["Set-Cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(parts)
    assert "Secure" not in parts
    secure = Browser(panel, **{"wsgi.url_scheme": "https"}).get("/login")
    assert "Secure" in secure.headers["Set-Cookie"].split("; ")


def test_cookie_that_was_changed_is_none(panel, browser):
    cookie = browser.cookies["webpanel"]
    payload, _, signature = cookie.partition(".")
    anonymous = Browser(panel)
    anonymous.get("/login")
    of_nobody = anonymous.cookies["webpanel"].partition(".")
    for changed in (
        f"{payload}.{of_nobody[2]}",
        f"{of_nobody[0]}.{signature}",
        f"{payload[:-2]}.{signature}",
        f"{payload}.{signature[:-1]}",
        payload,
        "W10=.x",
        "é.é",
        "",
    ):
        browser.cookies["webpanel"] = changed
        assert browser.get("/jobs").status == 303
    browser.cookies["webpanel"] = cookie
    assert browser.get("/jobs").status == 200


@pytest.mark.parametrize(
    "others", ["a=1", 'json={"a": [1]}', "no value", "a b=c", "é=1", 'x="', "a@b=1"]
)
def test_cookies_of_other_applications_end_no_session(panel, browser, others):
    own = f"webpanel={browser.cookies['webpanel']}"
    for cookies in (f"{others}; {own}", f"{own}; {others}"):
        browser.cookies = {}
        assert browser.get("/jobs", HTTP_COOKIE=cookies).status == 200


def test_session_is_known_to_all_processes_that_share_the_secret(
    make_panel, panel_settings, browser, tmp_path
):
    elsewhere = Browser(make_panel(panel_settings))
    elsewhere.cookies = browser.cookies
    assert elsewhere.get("/login").status == 303
    (tmp_path / "secret").write_text("t" * 64)
    elsewhere = Browser(make_panel(panel_settings))
    elsewhere.cookies = browser.cookies
    assert elsewhere.get("/login").status == 200


def test_session_ends_with_logout_password_user_and_time(panel, panel_settings):
    browser = Browser(panel)
    browser.log_in("alice", "wonderland")
    browser.post("/logout")
    assert browser.get("/jobs").status == 303
    browser.log_in("alice", "wonderland")
    set_entry(panel_settings.users_file, "alice", passwords.write_random("other"))
    assert browser.get("/jobs").status == 303
    assert browser.log_in("alice", "other").status == 303
    assert browser.get("/jobs").status == 200
    panel.sessions._clock = lambda: time.time() + 12 * 3600 + 1
    assert browser.get("/jobs").status == 303


# --- what goes with every answer -----------------------------------------------------


def test_every_answer_forbids_what_we_do_not_need(browser):
    for path in ("/jobs", "/none", "/jobs/x", "/static/panel.js", "/host?name=none"):
        headers = browser.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"


NOWHERE = [
    ("/none", 404, "no such page"),
    ("/jobs/", 404, "no such job"),
    ("/jobs/../x", 404, "no such page"),
    ("/jobs/none", 404, "no such job"),
    ("/jobs/{id}", 404, "no such job"),
    ("/jobs/{id}/packets", 404, "no such job"),
    ("/jobs/%0d%0aX:%20y/stream.jsonl", 404, "no such job"),
    (f"/jobs/{SOME_ID}", 404, "no such job"),
    (f"/jobs/{SOME_ID}/packets", 404, "no such job"),
    (f"/jobs/{SOME_ID}/events", 404, "no such job"),
    (f"/jobs/{SOME_ID}/again", 404, "no such job"),
    (f"/jobs/{SOME_ID}/result.json", 404, "no such job"),
    (f"/jobs/{SOME_ID}/stream.jsonl", 404, "no such job"),
    ("/static/../app.py", 404, "no such page"),
    ("/group?id=none", 404, "no such group"),
    ("/group", 400, "Incomplete"),
    ("/host", 400, "Incomplete"),
    ("/host?name=none", 404, "no host none"),
    ("/call?host=web01&procedure=none", 404, "no procedure none"),
    ("/call?host=none&procedure=add", 404, "no host none"),
    ("/queue?name=[]", 400, "Wrong address"),
    ("/queue?name=" + "%5B" * 5000, 400, "Wrong address"),
    ('/queue?name={"a":1e999}', 400, "Wrong address"),
    ('/queue?name={"a":NaN}', 400, "Wrong address"),
    ("/jobs?state=none", 400, "Wrong address"),
    ("/jobs?before=none", 400, "refuses"),
    (f"/jobs/{SOME_ID}/packets?since=x", 400, "Wrong address"),
    ("/jobs?host=%ff", 400, "Can't be read"),
    ("/cancel", 404, "no such page"),
]


def test_addresses_that_lead_nowhere_say_so(browser):
    for path, status, told in NOWHERE:
        answer = browser.get(path)
        assert (path, answer.status) == (path, status)
        assert told in answer.page.heading


def test_other_methods_are_refused(browser):
    answer = browser.ask("DELETE", "/jobs")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")
    assert browser.ask("GET", "/logout").status == 405
    assert browser.ask("HEAD", "/jobs").body == b""
    style = browser.ask("HEAD", "/static/panel.css")
    assert (style.status, style.body) == (200, b"")


def test_form_that_is_none_is_refused(browser):
    for environ, status in (
        ({"CONTENT_TYPE": "application/json"}, 415),
        ({"CONTENT_LENGTH": ""}, 411),
        ({"CONTENT_LENGTH": str(10**9)}, 413),
        ({"CONTENT_LENGTH": "9999"}, 400),
    ):
        assert browser.ask("POST", "/logout", b"x=y", **environ).status == status
    for body in (b"csrf=\xff", b"csrf=%ff", b"&".join([b"a=1"] * 20_000)):
        assert browser.ask("POST", "/logout", body).status == 400


def test_length_of_more_digits_than_a_number_may_have_is_refused():
    environ = {"CONTENT_TYPE": "application/x-www-form-urlencoded"}
    for length in ("9" * 5000, "-1", "1e3", "٣"):
        request = web.Request(
            {**environ, "REQUEST_METHOD": "POST", "CONTENT_LENGTH": length}
        )
        with pytest.raises(web.HttpError, match="Length unknown"):
            request.form


def test_dispatcher_that_is_away_is_told_by_every_page(
    make_panel, panel_settings, browser
):
    away = make_panel(panel_settings)
    away.rpc = harp.HarpCaller("127.0.0.1", 1, retry_for=0.01, resume_for=0.01)
    other = Browser(away)
    other.cookies = browser.cookies
    for path in ("/jobs", "/hosts", "/queues", f"/jobs/{SOME_ID}", "/group?id=x"):
        answer = other.get(path)
        assert answer.status == 503 and "can't be reached" in answer.page.heading
        assert "Retry-After" in answer.headers


def test_dispatcher_that_is_none_is_told(panel, browser, scripted_peer):
    def reply(connection):
        connection.readline()
        connection.send(b'{"hosts": 5}\n')

    peer = scripted_peer(reply)
    panel.rpc = harp.HarpCaller(*peer.address)
    answer = browser.get("/hosts")
    assert answer.status == 502 and "can't be understood" in answer.page.heading


def test_application_may_stand_below_a_path(panel):
    browser = Browser(panel, SCRIPT_NAME="/panel")
    answer = browser.log_in("alice", "wonderland")
    assert answer.location == "/panel/"
    assert "Path=/panel" in answer.headers["Set-Cookie"]
    page = browser.page("/hosts")
    links = [link.attributes["href"] for link in page.all("a")]
    assert all(link.startswith(("/panel/", "#")) for link in links)


# --- hosts and calls -----------------------------------------------------------------


def test_hosts_are_listed_and_found_by_name(browser):
    assert [row[0] for row in browser.page("/hosts").rows()[1:]] == ["web01", "web02"]
    assert [row[0] for row in browser.page("/hosts?match=*2").rows()[1:]] == ["web02"]


def test_host_shows_what_may_be_called_there(browser):
    page = browser.page("/host?name=web01")
    rows = {row[0]: row for row in page.rows()}
    assert rows["add"] == ["add", "Return the sum.", "(a: int, b: int = 1)"]


def test_host_that_is_down_is_told_and_its_jobs_are_there(browser, system, rpc):
    entry = {**system.host_entry("gone"), "port": 1}
    system.write_hosts([*map(system.host_entry, ("web01", "web02")), entry])
    try:
        deadline = time.monotonic() + SECONDS
        while (answer := browser.get("/host?name=gone")).status != 502:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert "can't be asked" in answer.page.text
        assert browser.get("/call?host=gone&procedure=add").status == 502
    finally:
        system.write_hosts(map(system.host_entry, ("web01", "web02")))


def controls(page):
    return [
        element
        for name in ("input", "select", "textarea")
        for element in page.all(name)
        if element.attributes.get("type") != "hidden"
    ]


def test_every_input_has_a_label_and_ids_are_unique(panel, browser):
    pages = [Browser(panel).page("/login")]
    for path in ("/jobs", "/hosts", "/call?host=web01&procedure=echo"):
        pages.append(browser.page(path))
    for page in pages:
        labelled = {label.attributes.get("for") for label in page.all("label")}
        for control in controls(page):
            if control.attributes.get("type") == "checkbox":
                continue  # stands in its label
            named = control.attributes.get("id") in labelled
            assert named or "aria-label" in control.attributes, control.attributes
        ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
        assert len(set(ids)) == len(ids)
        assert page.one("a", href="#main").text.startswith("Skip")


def test_form_holds_defaults_and_what_it_sends_is_called(browser, rpc):
    page = browser.page("/call?host=web01&procedure=add")
    assert page.one("input", name="arg.b").attributes["value"] == "1"
    job = job_of(call(browser, "add", **{"arg.a": "2", "arg.b": "3"}), rpc)
    assert job.get(timeout=SECONDS) == 5
    status = job.status()
    assert status["call"]["arguments"] == {"a": 2, "b": 3}
    assert status["on_behalf_of"] == "alice"


def test_form_with_faults_calls_nothing_and_keeps_what_was_typed(browser, rpc):
    before = len(list(rpc.jobs()))
    fields = {"arg.a": "two", "arg.b": "7", "timeout": "-1", "concurrency": "2"}
    answer = call(browser, "add", more=fields)
    page = answer.page
    assert answer.status == 400 and "Nothing was called" in page.text
    assert page.one("input", name="arg.a").attributes["aria-invalid"] == "true"
    assert page.one("input", name="arg.b").attributes["value"] == "7"
    faulty = {link.attributes["href"] for link in page.all("a") if link.text != "web01"}
    for name in ("arg.a", "timeout", "concurrency"):
        assert "#" + page.one("input", name=name).attributes["id"] in faulty
    assert call(browser, "echo", more={"queue": "{x"}).status == 400
    assert call(browser, "echo", more={"host": []}).status == 400
    assert len(list(rpc.jobs())) == before


def test_form_that_is_sent_twice_is_one_call(browser, rpc):
    form = jobid.make()
    fields = {"arg.a": "2"}
    first = call(browser, "add", form=form, more=fields)
    assert call(browser, "add", form=form, more=fields).location == first.location
    changed = call(browser, "add", form=form, more={"arg.a": "3"})
    assert changed.location != first.location
    again = call(browser, "add", more=fields)
    assert again.location != first.location


def test_form_of_days_ago_is_sent_all_the_same(browser, rpc):
    old = jobid.make(int((time.time() - 3 * 86400) * 1000))
    for form in (old, "none", jobid.make(2**47)):
        assert job_of(call(browser, "add", form=form, more={"arg.a": "1"}), rpc)


def test_queue_and_limits_go_with_the_call(browser, rpc):
    fields = {"queue": '{"of": "web01"}', "concurrency": "2", "timeout": "5"}
    fields |= {"max_exec_time": "50", "arg.a": "1"}
    status = job_of(call(browser, "add", more=fields), rpc).status()
    assert status["queue"] == {"name": {"of": "web01"}, "concurrency": 2}
    assert (status["timeout"], status["max_exec_time"]) == (5, 50)
    named = job_of(call(browser, "add", more={"queue": "nightly", "arg.a": "1"}), rpc)
    assert named.status()["queue"]["name"] == {"name": "nightly"}


def test_secret_argument_is_shown_by_no_page(browser, rpc):
    page = browser.page("/call?host=web01&procedure=set_password")
    assert page.one("input", name="arg.password").attributes["type"] == "password"
    assert "checked" in page.one("input", name="secret.password").attributes
    assert "checked" not in page.one("input", name="secret.user").attributes
    fields = {
        "arg.user": "bob",
        "arg.password": "471108150815",
        "secret.password": "yes",
    }
    faulty = call(browser, "set_password", more={**fields, "timeout": "x"})
    assert faulty.status == 400 and b"471108150815" not in faulty.body
    job = job_of(call(browser, "set_password", more=fields), rpc)
    assert job.get(timeout=SECONDS) == "bob has a new password"
    again = f"/call?host=web01&procedure=set_password&like={job.id()}"
    for path in (f"/jobs/{job.id()}", "/jobs", again):
        source = browser.page(path).source
        assert "471108150815" not in source and "bob" in source
    assert browser.get(f"/jobs/{job.id()}/again").status == 409
    assert browser.post(f"/jobs/{job.id()}/again").status == 409


# --- one job -------------------------------------------------------------------------


def test_job_page_shows_how_it_ended(browser, rpc):
    job = job_of(call(browser, "add", more={"arg.a": "41"}), rpc)
    job.get(timeout=SECONDS)
    page = browser.page(f"/jobs/{job.id()}")
    assert page.heading == "add on web01"
    assert "42" in page.one("pre", **{"class": "value"}).text
    assert page.one("section", id="output").attributes.get("hidden", "shown") is None
    assert browser.get(f"/jobs/{job.id()}/result.json").json == 42


def test_job_page_shows_what_was_raised_and_what_went_wrong(browser, rpc):
    job = rpc.web01.fail("out of paper")
    job.result(timeout=SECONDS)
    page = browser.page(f"/jobs/{job.id()}")
    assert "It raised Broken" in page.text and '"why": "out of paper"' in page.text
    found = browser.get(f"/jobs/{job.id()}/result.json").json
    assert found["type"] == "Broken" and found["data"] == {"why": "out of paper"}
    job = rpc.nowhere.add(1)
    job.result(timeout=SECONDS)
    page = browser.page(f"/jobs/{job.id()}")
    assert "It failed: unknown_host" in page.text
    assert "did not run: it is safe to run it again" in page.text


def test_cancel_stops_the_job_and_says_who(browser, rpc, system):
    job = rpc.web01.wait()
    assert browser.page(f"/jobs/{job.id()}").one("button", **{"class": "danger"})
    answer = browser.post(f"/jobs/{job.id()}/cancel")
    assert answer.location == f"/jobs/{job.id()}"
    assert job.result(timeout=SECONDS) is harp.CALL_CANCELLED
    assert "Cancelled" in browser.page(answer.location).text
    assert cancelled_for(system, job) == ["alice"]


def cancelled_for(system, job):
    """For whom the audit log says that a job was cancelled."""
    lines = (system.directory.parent / "audit.log").read_text().splitlines()
    return [
        entry["on_behalf_of"]
        for entry in map(json.loads, lines)
        if entry["operation"] == "cancel" and entry["job"] == job.id()
    ]


def test_job_is_run_again_when_one_is_sure(browser, rpc):
    job = rpc.host("web01", queue={"q": 1}, on_behalf_of="bob").echo(1, "two")
    job.get(timeout=SECONDS)
    page = browser.page(f"/jobs/{job.id()}/again")
    assert "it can have had an effect" in page.text
    again = job_of(browser.post(f"/jobs/{job.id()}/again"), rpc)
    assert again.get(timeout=SECONDS) == [[1, "two"], {}]
    status = again.status()
    assert (status["queue"]["name"], status["on_behalf_of"]) == ({"q": 1}, "alice")


def test_job_that_goes_on_is_not_run_again(browser, rpc):
    job = rpc.web01.wait()
    assert browser.post(f"/jobs/{job.id()}/again").status == 409


def test_form_can_begin_with_what_a_job_had(browser, rpc):
    positional = rpc.host("web01", queue={"q": 1}).echo(1, "7", "x")
    page = browser.page(f"/call?host=web01&procedure=echo&like={positional.id()}")
    assert page.one("textarea", name="arg.values").text.strip() == '1\n"7"\nx'
    assert page.one("input", name="queue").attributes["value"] == '{"q":1}'
    named = rpc.web01.echo(z=5)
    page = browser.page(f"/call?host=web01&procedure=echo&like={named.id()}")
    assert page.one("textarea", name="arg.named").text.strip() == '{"z": 5}'


def test_secret_that_a_job_had_is_typed_anew_and_stays_one(browser, rpc):
    def fields_like(job, procedure):
        page = browser.page(f"/call?host=web01&procedure={procedure}&like={job.id()}")
        return {
            element.attributes["name"]: element
            for element in page.all("textarea") + page.all("input")
            if "name" in element.attributes
        }

    many = fields_like(rpc.web01.echo("open", harp.Secret("x")), "echo")
    assert many["arg.values"].text.strip() == ""
    assert "checked" in many["secret.values"].attributes
    assert "checked" not in many["secret.named"].attributes
    named = fields_like(rpc.web01.echo(a=1, b=harp.Secret("x")), "echo")
    assert named["arg.named"].text.strip() == ""
    assert "checked" in named["secret.named"].attributes
    single = fields_like(rpc.web01.fail(harp.Secret("x")), "fail")
    assert "checked" in single["secret.message"].attributes


def test_queue_of_a_name_that_can_not_be_sent_is_told_at_its_field(browser, rpc):
    answer = call(browser, "add", more={"queue": '{"a": 1e999}', "arg.a": "1"})
    assert answer.status == 400 and b"must be a word or a JSON object" in answer.body


# --- streams -------------------------------------------------------------------------


def packets_of(page):
    return [(item.attributes["value"], item.text) for item in page.all("li", **PACKET)]


PACKET = {"class": "packet"}


def wait_for_packets(job, count):
    deadline = time.monotonic() + SECONDS
    while job.status()["packets"] < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stream_grows_by_the_number_of_the_next_packet(browser, rpc):
    job = rpc.web01.say_and_wait(3)
    wait_for_packets(job, 3)
    page = browser.page(f"/jobs/{job.id()}")
    assert packets_of(page) == [("0", "line 0"), ("1", "line 1"), ("2", "line 2")]
    place = page.one("ol", id="stream").attributes
    assert place["data-next"] == "3"
    found = browser.get(place["data-packets"] + "?since=1").json
    assert found == {"packets": ["line 1", "line 2"], "next": 3, "ended": False}
    assert browser.get(place["data-packets"] + "?since=3").json["packets"] == []
    job.cancel()
    assert browser.get(place["data-packets"] + "?since=3").json["ended"]
    ended = browser.page(f"/jobs/{job.id()}").one("ol", id="stream").attributes
    assert "data-packets" not in ended and "data-events" not in ended


def test_stream_of_which_nothing_has_come_says_so(browser, rpc):
    job = rpc.web01.wait()
    section = browser.page(f"/jobs/{job.id()}").one("section", id="output")
    assert section.text == "StreamNothing has come so far."


def test_page_without_script_can_reload_itself_while_the_job_goes_on(browser, rpc):
    job = rpc.web01.wait()
    page = browser.page(f"/jobs/{job.id()}")
    assert not page.all("meta", **{"http-equiv": "refresh"})
    (link,) = [a for a in page.all("a") if a.text.startswith("reload every")]
    page = browser.page(link.attributes["href"])
    assert page.one("meta", **{"http-equiv": "refresh"}).attributes["content"] == "5"
    job.cancel()
    page = browser.page(link.attributes["href"])
    assert not page.all("meta", **{"http-equiv": "refresh"})


def test_long_stream_is_shown_from_its_end_and_paged(browser, rpc):
    job = rpc.web01.say(*range(450))
    job.get(timeout=SECONDS)
    page = browser.page(f"/jobs/{job.id()}")
    numbers = [int(number) for number, _ in packets_of(page)]
    assert numbers == list(range(250, 450))
    assert page.one("nav", **{"aria-label": "Stream"}).text == "« earlier"
    (earlier,) = [a for a in page.all("a") if "earlier" in a.text]
    page = browser.page(earlier.attributes["href"])
    assert [int(number) for number, _ in packets_of(page)] == list(range(50, 250))
    page = browser.page(f"/jobs/{job.id()}?since=0")
    assert page.one("nav", **{"aria-label": "Stream"}).text == "later »newest"
    lines = browser.get(f"/jobs/{job.id()}/stream.jsonl").body.splitlines()
    assert [json.loads(line)["data"] for line in lines] == list(range(450))


def events_of(body):
    """Pairs of id and data, and the names of events that have one."""
    packets, names = [], []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        if "id" in fields:
            packets.append((int(fields["id"]), json.loads(fields["data"])))
        elif "event" in fields:
            names.append(fields["event"])
    return packets, names


def test_large_packets_are_read_by_and_by(browser, rpc, monkeypatch):
    monkeypatch.setattr(stream, "_READ", 2500)
    job = rpc.web01.say(*["x" * 1000] * 7)
    job.get(timeout=SECONDS)
    page = browser.page(f"/jobs/{job.id()}")
    assert [number for number, _ in packets_of(page)] == ["0", "1", "2"]
    assert page.one("nav", **{"aria-label": "Stream"}).text == "later »"
    found = browser.get(f"/jobs/{job.id()}/packets?since=3").json
    assert (len(found["packets"]), found["next"], found["ended"]) == (3, 6, False)
    found = browser.get(f"/jobs/{job.id()}/packets?since=6").json
    assert (len(found["packets"]), found["next"], found["ended"]) == (1, 7, True)


def test_large_result_is_shown_as_far_as_a_page_goes(browser, rpc):
    job = rpc.web01.echo(*range(50_000))
    job.get(timeout=SECONDS)
    page = browser.page(f"/jobs/{job.id()}")
    shown = page.all("pre", **{"class": "value"})[-1]
    assert len(shown.text) == 100_000
    assert json.loads(browser.get(f"/jobs/{job.id()}/result.json").body)[0][-1] == 49999


def test_events_carry_the_packets_number_and_go_on_behind_the_last(browser, rpc):
    job = rpc.web01.say("a", "b\nc", {"d": 1})
    job.get(timeout=SECONDS)
    address = f"/jobs/{job.id()}/events"
    answer = browser.get(address)
    assert answer.headers["Content-Type"] == "text/event-stream"
    whole = [(0, "a"), (1, "b\nc"), (2, '{"d": 1}')]
    assert events_of(answer.body) == (whole, ["end"])
    assert events_of(browser.get(address + "?since=2").body)[0] == whole[2:]
    resumed = browser.get(address + "?since=0", HTTP_LAST_EVENT_ID="0")
    assert events_of(resumed.body) == (whole[1:], ["end"])
    nonsense = browser.get(address, HTTP_LAST_EVENT_ID="x" * 100)
    assert events_of(nonsense.body)[0] == whole


def test_events_come_as_the_job_goes_on_and_give_their_thread_back(browser, rpc):
    job = rpc.web01.say_and_wait(2)
    address = f"/jobs/{job.id()}/events"
    started, parts = browser.open("GET", address)
    stream = iter(parts)
    with contextlib.closing(parts):
        seen = b""
        while seen.count(b"id: ") < 2:
            seen += next(stream)
        refused = browser.get(address)
        assert refused.status == 503
    assert events_of(seen)[0] == [(0, "line 0"), (1, "line 1")]
    # Its place is free, for one whose body nobody ever asks for, too.
    for _ in range(2):
        started, parts = browser.open("GET", address)
        assert started[0] == "200 OK"
        iter(parts)
        parts.close()
    assert browser.ask("HEAD", address).status == 200
    job.cancel()
    assert events_of(browser.get(address).body)[1] == ["end"]


def test_without_threads_to_spare_there_are_no_events(
    make_panel, panel_settings, browser, rpc
):
    spare = make_panel(dataclasses.replace(panel_settings, events=False))
    other = Browser(spare)
    other.cookies = browser.cookies
    job = rpc.web01.say_and_wait(1)
    page = other.page(f"/jobs/{job.id()}").one("ol", id="stream").attributes
    assert "data-events" not in page and "data-packets" in page
    assert other.get(f"/jobs/{job.id()}/events").status == 503


# --- many ----------------------------------------------------------------------------


def test_call_on_several_hosts_is_a_group(browser, rpc):
    more = {"arg.a": "1", "pattern": "web*", "at_a_time": "1"}
    answer = call(browser, "add", hosts=["web01"], more=more)
    group = rpc.group(query_of(answer)["id"])
    assert group.results(timeout=SECONDS) == {"web01": 2, "web02": 2}
    page = browser.page(answer.location)
    assert "2 of 2 have ended" in page.text and "2 succeeded" in page.text
    (status, other) = rpc.jobs(group=group.id())
    assert status["queue"]["concurrency"] == 1 and status["on_behalf_of"] == "alice"


def test_form_for_several_hosts_that_is_sent_twice_is_one_group(browser, rpc):
    form = jobid.make()
    more = {"arg.a": "1", "form": form}
    first = call(browser, "add", hosts=["web01", "web02"], more=more)
    second = call(browser, "add", hosts=["web01", "web02"], more=more)
    assert second.location == first.location
    assert len(list(rpc.jobs(group=query_of(first)["id"]))) == 2


def test_group_shows_what_each_host_does_and_can_be_cancelled(browser, rpc, system):
    group = rpc.hosts(["web01", "web02", "nowhere"]).say_and_wait(2)
    for host, job in group.calls().items():
        if host != "nowhere":
            wait_for_packets(job, 2)
    group.calls()["nowhere"].result(timeout=SECONDS)
    address = f"/group?id={group.id()}"
    page = browser.page(address)
    rows = {row[0]: row for row in page.rows()[1:]}
    assert rows["web01"][1] == "running" and rows["web01"][3:] == ["2", "line 1"]
    assert rows["nowhere"][4].startswith("unknown_host")
    assert page.one("section", id="group").attributes["data-refresh"] == "2"
    answer = browser.post("/group/cancel", {"id": group.id()})
    assert query_of(answer) == {"id": group.id()}
    assert cancelled_for(system, group.calls()["web01"]) == ["alice"]
    rows = {row[0]: row[1] for row in browser.page(address).rows()[1:]}
    assert rows == {"web01": "cancelled", "web02": "cancelled", "nowhere": "failed"}


def test_calls_of_a_group_that_failed_are_run_again(browser, rpc):
    group = rpc.hosts(["web01", "nowhere"], on_behalf_of="bob").fail("x")
    group.results(timeout=SECONDS)
    form = {"id": group.id(), "which": "no"}
    again = rpc.group(query_of(browser.post("/group/again", form))["id"])
    assert list(again.calls()) == ["nowhere"]
    (status,) = rpc.jobs(group=again.id())
    assert status["on_behalf_of"] == "alice"
    form["which"] = "failed"
    again = rpc.group(query_of(browser.post("/group/again", form))["id"])
    assert list(again.calls()) == ["web01", "nowhere"]
    fine = rpc.hosts(["web01", "web02"]).add(1)
    fine.results(timeout=SECONDS)
    assert browser.post("/group/again", {"id": fine.id()}).status == 409


def test_jobs_are_filtered_and_paged(browser, rpc):
    group = jobid.make()
    jobs = [rpc.host("web01", group=group).add(n) for n in range(60)]
    failed = rpc.host("web02", group=group).fail()
    for job in (*jobs, failed):
        job.result(timeout=SECONDS)
    address = f"/jobs?group={group}"
    assert len(browser.page(f"{address}&state=exception").rows()) == 2
    assert len(browser.page(f"{address}&host=web02&procedure=fail").rows()) == 2
    assert "no such job" in browser.page(f"{address}&state=queued").text
    seen = []
    while address:
        page = browser.page(address)
        seen += [row[-1] for row in page.rows()[1:]]
        older = [a.attributes["href"] for a in page.all("a") if "older" in a.text]
        address = older[0] if older else None
    assert seen == ["", *(str(n) for n in reversed(range(60)))]


def test_queue_shows_who_waits_for_whom(browser, rpc):
    server = rpc.host("web01", queue={"of": "panel"})
    first, second, third = server.wait(600), server.add(1), server.add(2)
    deadline = time.monotonic() + SECONDS
    while first.status()["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    page = browser.page("/queues")
    (row,) = [row for row in page.rows() if row[0] == '{"of":"panel"}']
    assert row[1:3] == ["1 of 1", "2"]
    assert row[3].endswith(second.id()[-8:]) and row[4].startswith("wait on web01")
    hrefs = [link.attributes["href"] for link in page.all("a")]
    assert {f"/jobs/{first.id()}", f"/jobs/{second.id()}"} <= set(hrefs)
    (link,) = [a for a in page.all("a") if a.text == '{"of":"panel"}']
    page = browser.page(link.attributes["href"])
    assert [row[-1] for row in page.rows() if row[0] != "Procedure"] == [
        "600",
        "1",
        "2",
    ]
    waiting = browser.page(f"/jobs/{third.id()}")
    assert "number 2" in waiting.text and f"/jobs/{first.id()}" in waiting.source


# --- what others have written --------------------------------------------------------

EVIL = "\"'><script>alert(1)</script><b id=evil onclick=alert(2)>&lt;"


def check_harmless(page):
    (script,) = page.all("script")
    assert script.attributes["src"] == "/static/panel.js" and not script.text
    for element in page.elements:
        assert element.attributes.get("id") != "evil"
        for name, value in element.attributes.items():
            assert not name.startswith("on") and name != "style"
            if name in ("href", "src", "action"):
                assert value.startswith(("/", "#", "?")) and value[:2] != "//"


def test_whatever_is_submitted_is_text(panel, rpc):
    browser = Browser(panel)
    assert browser.log_in("<b id=evil>", "bold").status == 303
    options = {"queue": {EVIL: EVIL}, "info": EVIL, "on_behalf_of": EVIL}
    evil = {"group": EVIL, **options}
    ended = [
        rpc.host("web01", **evil).echo(EVIL),
        rpc.host("web01", **evil).echo(**{EVIL: EVIL}),
        rpc.host("web01", **evil).fail(EVIL),
        rpc.host("web01", **evil).say(EVIL, {EVIL: EVIL}),
        rpc.host(EVIL, **evil)[EVIL](EVIL),
    ]
    for job in ended:
        job.result(timeout=SECONDS)
    running = rpc.host("web01", **evil).say_and_wait(1)
    waiting = rpc.host("web01", **evil).echo(EVIL)
    quoted = urllib.parse.quote(EVIL, safe="")
    name = urllib.parse.quote(json.dumps({EVIL: EVIL}))
    paths = [f"/jobs/{job.id()}" for job in (*ended, running, waiting)]
    paths += [f"/jobs/{job.id()}/again" for job in ended]
    paths += [
        "/jobs",
        f"/jobs?host={quoted}&procedure={quoted}",
        f"/jobs?group={quoted}",
    ]
    paths += [f"/group?id={quoted}", "/queues", f"/queue?name={name}", "/hosts"]
    paths += [f"/hosts?match={quoted}", "/host?name=web01", f"/host?name={quoted}"]
    paths += [
        f"/call?host={quoted}&procedure={quoted}",
        f"/{quoted}",
        "/jobs/" + quoted,
    ]
    names = [job.status()["call"]["procedure"] for job in ended[:4]]
    form = "/call?host=web01&procedure="
    paths += [f"{form}{name}&like={job.id()}" for name, job in zip(names, ended)]
    for path in paths:
        page = browser.get(path).page
        check_harmless(page)
    shown = browser.page(f"/group?id={quoted}").text
    assert EVIL in shown
    fields = {
        "arg.values": EVIL,
        "arg.named": EVIL,
        "queue": "{" + EVIL,
        "timeout": EVIL,
    }
    answer = call(
        browser, "echo", hosts=["web01", EVIL], more=fields | {"pattern": EVIL}
    )
    assert answer.status == 400
    check_harmless(answer.page)
    assert answer.page.one("input", name="pattern").attributes["value"] == EVIL
    stranger = Browser(panel)
    check_harmless(stranger.page(f"/login?next={quoted}"))
    check_harmless(stranger.log_in(EVIL, EVIL).page)
    answer = browser.get(f"/jobs/{ended[3].id()}/packets")
    assert answer.headers["Content-Type"] == "application/json"


def test_texts_that_are_no_unicode_can_be_shown(browser, rpc):
    job = rpc.web01.say("caf\udce9", "\x1b[31mred\x00")
    job.get(timeout=SECONDS)
    page = browser.page(f"/jobs/{job.id()}")
    assert [text for _, text in packets_of(page)] == ["caf?", "␛[31mred␀"]
    assert browser.get(f"/jobs/{job.id()}/packets").json["packets"][0] == "caf\udce9"


def test_pages_load_nothing_from_elsewhere():
    for path in (EXAMPLE / "webpanel").rglob("*"):
        if path.suffix in (".py", ".css", ".js"):
            assert not re.search("https?://|@import|url[(][^)]*//", path.read_text())


# --- serve.py ------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path, system):
    """serve.py, on trial: its process, its address and its user's password."""
    address = "%s:%d" % system.dispatcher_address
    process = subprocess.Popen(
        [sys.executable, EXAMPLE / "serve.py", "--port", "0", "--trial"]
        + ["--dispatcher", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            told = process.stdout.readline() + process.stdout.readline()
            password = re.search(r"password: (\S+)", told)[1]
            yield process, re.search(r"http://\S+/", told)[0], password
        finally:
            process.terminate()


def test_panel_is_served_over_http(served):
    process, address, password = served
    cookies = urllib.request.HTTPCookieProcessor()
    opener = urllib.request.build_opener(cookies)
    with opener.open(address, timeout=SECONDS) as answer:
        source = answer.read().decode()
        assert answer.url == address + "login?next=%2F"
    token = re.search('name="csrf" value="([^"]*)"', source)[1]
    form = {"csrf": token, "user": "you", "password": password}
    body = urllib.parse.urlencode(form).encode()
    with opener.open(address + "login", body, timeout=SECONDS) as answer:
        assert (
            answer.url == address + "jobs" and "<h1>Jobs</h1>" in answer.read().decode()
        )
    with opener.open(address + "static/panel.css", timeout=SECONDS) as answer:
        assert answer.headers["Content-Type"].startswith("text/css")
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0


@pytest.mark.parametrize(
    "options, told",
    [
        (["--settings", "none.toml"], "none.toml: No such file"),
        (["--dispatcher", "x"], "goes with --trial"),
        (["--trial", "--dispatcher", "ftp://x"], "dispatcher: "),
    ],
)
def test_serve_tells_in_a_line_what_is_wrong(tmp_path, options, told):
    process = subprocess.run(
        [sys.executable, EXAMPLE / "serve.py", "--port", "0", *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=SECONDS,
    )
    lines = process.stderr.strip().splitlines()
    assert process.returncode != 0 and told in lines[-1]
    assert "Traceback" not in process.stderr


WSGI = """
import sys
sys.path.insert(0, sys.argv[1])
from wsgi import application
print(application.settings.title)
"""


def test_wsgi_servers_find_the_application(panel_settings, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('users_file = "users"\nsecret_file = "secret"\ntitle = "Ours"\n')
    told = subprocess.run(
        [sys.executable, "-c", WSGI, EXAMPLE],
        env={settings.VARIABLE: str(file), "HARPCALLER_URL": "harp://127.0.0.1:1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert told.stdout == "Ours\n", told.stderr
