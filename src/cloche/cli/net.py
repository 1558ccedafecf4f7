"""`cloche net`: what a sandbox with a name may connect to, while it runs, and what it has connected to."""

import argparse
import sys
from collections.abc import Callable, Iterator

from cloche.cli.client import connect, printable, report_errors
from cloche.cli.network import policy_of
from cloche.cli.options import UsageError
from cloche.cli.terminal import printable_text
from cloche.egress.policy import Policy, PolicyError
from cloche.wire import protocol
from cloche.wire.control_client import ControlClient, ControlError, Ended
from cloche.wire.requests import NET, STATUS_ENDED
from cloche.wire.wording import counted

OPERATIONS = ("show", "set", "add", "remove", "log", "approve")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `cloche net`."""
    parser.add_argument("name", metavar="NAME", help="the sandbox")
    parser.add_argument(
        "operation",
        choices=OPERATIONS,
        help="show the rules; set them anew, add or remove some (what is no longer allowed is cut); show the log;"
        " approve requests that a rule lets wait for it",
    )
    parser.add_argument(
        "id",
        nargs="?",
        type=int,
        help="with approve: which request; without it, ask about one after the other",
    )
    parser.add_argument("--refuse", action="store_true", help="with approve ID: say no")
    for option, metavar, text in (
        ("--allow", "RULE", "HOST[:PORTS][/PROTOCOL] or CIDR:PORTS[/udp], as for cloche run"),
        ("--deny", "RULE", "the same, counts before every --allow"),
        ("--net", "FILE", "rules of a file or a preset"),
    ):
        parser.add_argument(option, action="append", default=[], metavar=metavar, help=text)
    parser.add_argument("-f", "--follow", action="store_true", help="with log: go on until the sandbox ends")


Connect = Callable[[], ControlClient]


def _run(options: argparse.Namespace) -> int:
    return run_with(options, lambda: connect(options, options.name))


def run_with(options: argparse.Namespace, connect_to: Connect) -> int:
    """Carry out the verb for a sandbox to which `connect_to` connects.  Raises UsageError, ControlError, OSError."""
    has_rules = bool(options.allow or options.deny or options.net)
    if options.operation in ("add", "remove") and not has_rules:
        raise UsageError(f"{options.operation} what? Write --allow, --deny or --net")
    if options.operation in ("show", "log") and has_rules:
        raise UsageError(f"{options.operation} takes no rules")
    if options.follow and options.operation != "log":
        raise UsageError("-f goes with log")
    if options.operation != "approve" and (options.id is not None or options.refuse):
        raise UsageError("an id and --refuse go with approve")
    if options.operation == "approve" and has_rules:
        raise UsageError("approve takes no rules")
    if options.refuse and options.id is None:
        raise UsageError("--refuse what? Write approve ID --refuse")
    policy = policy_of(options)
    client = connect_to()
    if options.operation == "approve":
        return _approve(client, options, connect_to)
    if options.operation == "log":
        return _log(client, follow=options.follow)
    if options.operation == "show":
        _show(_shown(client))
        return 0
    fields: protocol.Fields = {"operation": options.operation}
    if options.operation == "set":
        present = _shown(client)
        policy.synthetic, policy.has_aaaa = present.synthetic, policy.has_aaaa or present.has_aaaa
        policy.resolvers = policy.resolvers or present.resolvers
        fields["policy"] = policy.to_fields()
    else:
        fields["rules"] = [rule.to_fields() for rule in policy.rules]
    if options.operation != "remove":
        for secret in policy.secrets():  # programs that run already do not have its variable
            print(f"{secret.name}={secret.placeholder}")
    answer = client.call(NET, fields)
    rules, cut = answer.get("rules"), answer.get("cut")
    if not isinstance(rules, int) or not isinstance(cut, int):
        raise ControlError("an answer that is not understood")
    said = f"; {counted(cut, 'connection')} {'was' if cut == 1 else 'were'} cut" if cut else ""
    print(counted(rules, "rule") + said)
    return 0


def _shown(client: ControlClient) -> Policy:
    """Get the rules that are in force. Raises ControlError."""
    try:
        return Policy.from_fields(client.call(NET, {"operation": "show"}).get("policy"))
    except PolicyError as error:
        raise ControlError(str(error)) from None


def _show(policy: Policy) -> None:
    if policy.is_open:
        print("allow everything (--net-without-limits)")
    for rule in sorted(policy.rules, key=lambda rule: not rule.is_deny):
        print(f"{'deny' if rule.is_deny else 'allow'} {rule.text()}")
    if policy.within is not None and not policy.within.is_open:
        print("of which counts what the rules of the host allow as well:")
        _show(policy.within)


def _approve(client: ControlClient, options: argparse.Namespace, connect_to: Connect) -> int:
    """Answer one request; or ask the user at the terminal about each that waits, now and later."""
    if options.id is not None:
        client.call(NET, {"operation": "approve", "id": options.id, "allow": not options.refuse})
        return 0
    is_asked = sys.stdin.isatty()
    answering = connect_to()  # a connection of its own, because further requests arrive on the first one
    ident = client.ask(NET, {"operation": "approvals", "follow": is_asked})
    for message in _told(client, ident, follow=is_asked):
        fields = message.fields
        shown = f"{fields.get('method')} {fields.get('url')}"
        who = f"{fields.get('program')}, pid {fields.get('pid')}; rule: {fields.get('rule')}"
        line = f"{fields.get('id')}  {shown}  ({who})"
        print(printable(line.encode()))
        sys.stdout.flush()
        if is_asked:
            scopes = {
                "path": "this method and path from now on",
                "host": "all that the rule is about from now on",
            }
            scope = scopes.get(str(fields.get("scope")), "this request only")
            try:
                answer = input(f"allow {scope}? [y/N] ")
            except EOFError:
                return 0
            wanted: protocol.Fields = {"operation": "approve", "id": fields.get("id")}
            wanted["allow"] = answer.strip().lower() in ("y", "yes")
            try:
                answering.call(NET, wanted)
            except ControlError as error:
                print(f"cloche: {printable_text(str(error))}", file=sys.stderr)
    return 0


def _log(client: ControlClient, *, follow: bool) -> int:
    ident = client.ask(NET, {"operation": "log", "follow": follow})
    for message in _told(client, ident, follow=follow):
        print(printable(str(message.fields.get("text", "")).encode()))
        sys.stdout.flush()
    return 0


def _told(client: ControlClient, ident: int, *, follow: bool) -> Iterator[protocol.Message]:
    """What comes on a request, until its answer; who follows is content with the sandbox's end, too."""
    while True:
        try:
            message = client.receive(ident)
        except Ended:
            return
        except ControlError as error:
            if follow and error.status == STATUS_ENDED:
                return
            raise
        if message.kind == protocol.REPLY:
            return
        yield message


def run(options: argparse.Namespace) -> int:
    """The verb.  The exit status."""
    return report_errors("net", _run, options)
