"""Calls a procedure, waits for its result, and tells apart all that can go wrong.

    python3 call_and_wait.py web01 disk_usage /

Arguments that are JSON are taken as that, others as text. The dispatcher is where
HARPCALLER_URL or /etc/harpcaller/client.toml says, else on this machine.
"""

import json
import sys

import harp

PATIENCE = 60  # seconds; the call itself is not cut short by it


def main():
    host, procedure, *arguments = sys.argv[1:]
    with harp.HarpCaller() as rpc:
        try:
            job = rpc.host(host)[procedure](*map(value_of, arguments))
        except harp.SubmissionLost as error:
            # It was sent, and nobody knows whether it arrived: look later.
            sys.exit(f"{error}; later, ask for job {error.job_id}")
        except (harp.RequestRefused, harp.CommunicationError) as error:
            sys.exit(f"nothing was called: {error}")
        # Whoever has the id finds the call again, also in another process.
        print(f"job {job.id()}", file=sys.stderr)
        try:
            result = job.get(timeout=PATIENCE)
        except harp.RemoteException as error:
            sys.exit(f"the procedure raised {error}")
        except harp.RemoteError as error:
            again = "safe to call again" if error.ran == "no" else f"ran: {error.ran}"
            sys.exit(f"the call failed ({again}): {error}")
        except harp.CancelledException as error:
            sys.exit(str(error))
    if result is harp.CALL_NOT_FINISHED:
        sys.exit(f"not done in {PATIENCE} s, and it goes on")
    print(json.dumps(result, ensure_ascii=False))


def value_of(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main()
