"""As whom, where and in what surroundings calls run."""

import grp
import os
import pwd

import pytest
from daemon_setup import error_of, harpd, make_harpd, needs_root, request  # noqa: F401


def result(daemon, procedure):
    return daemon.end(procedure)["result"]


def test_call_has_a_session_and_clean_surroundings_of_its_own(harpd):
    with harpd.connect() as caller:
        caller.send_message(request("whereami", job_id="job-9"))
        found = caller.messages()[-1]["result"]
    assert found["session"]
    assert found["directory"] == "/"
    assert found["stdin"] == "/dev/null"
    assert found["umask"] == 0o022
    assert found["name"] == "whereami"
    assert found["environment"]["HARP_JOB_ID"] == "job-9"
    account = pwd.getpwuid(os.getuid())
    if os.getuid() == 0:
        assert found["environment"]["HOME"] == account.pw_dir
        assert found["environment"]["USER"] == account.pw_name
    assert found["environment"].keys() <= {
        *("PATH", "LANG", "TZ", "LC_CTYPE"),
        *("HOME", "USER", "LOGNAME", "HARP_JOB_ID"),
    }


def test_call_has_no_descriptor_but_its_three_and_its_socket(harpd):
    descriptors = dict(result(harpd, "whereami")["descriptors"])
    assert descriptors.pop("0") == "/dev/null"
    assert descriptors.pop("1") == descriptors.pop("2") == "pipe"
    assert sorted(descriptors.values())[-1] == "socket"
    # Beside the socket: the one that listed them.
    assert len(descriptors) <= 2


@needs_root
@pytest.mark.parametrize("procedure", ["as_nobody", "stream_as_number"])
def test_uid_without_gid_takes_the_own_groups_of_that_user(harpd, procedure):
    messages = harpd.call(procedure)
    found = messages[1].get("result") or messages[1].get("stream")
    nobody = pwd.getpwnam("nobody")
    assert found["uid"] == [nobody.pw_uid] * 3
    assert found["gid"] == [nobody.pw_gid] * 3
    assert found["groups"] == sorted(os.getgrouplist("nobody", nobody.pw_gid))
    assert found["environment"]["USER"] == "nobody"


@needs_root
def test_gid_is_the_only_group(harpd):
    gid = grp.getgrnam("daemon").gr_gid
    for procedure in ("as_nobody_in_group", "in_group"):
        found = result(harpd, procedure)
        assert found["gid"] == [gid] * 3 and found["groups"] == [gid]
    assert found["uid"] == [os.getuid()] * 3


@needs_root
def test_calls_run_as_the_configured_user_and_group(make_harpd):
    daemon = make_harpd(procedures={"user": "nobody", "group": "daemon"})
    found = result(daemon, "whereami")
    assert found["uid"] == [pwd.getpwnam("nobody").pw_uid] * 3
    assert found["groups"] == [grp.getgrnam("daemon").gr_gid]
    # A procedure's own user brings its own groups.
    found = result(daemon, "as_nobody")
    assert found["gid"] == [pwd.getpwnam("nobody").pw_gid] * 3


@needs_root
@pytest.mark.parametrize(
    "procedure, text",
    [
        ("as_nobody_known", "no user is called 'no such user'"),
        ("as_number_without_account", "user 54321 is not in the user database"),
    ],
)
def test_user_that_cannot_be_had_is_a_system_error_before_anything_runs(
    harpd, procedure, text
):
    (message,) = harpd.call(procedure)
    type_, found = error_of(message)
    assert type_ == "system_error" and text in found
