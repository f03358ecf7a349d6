"""A browser for tests, which calls a WSGI application itself, and what it got."""

import io
import json
import re
import urllib.parse
from html.parser import HTMLParser
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

_VOID = {"input", "link", "meta", "br", "hr"}


class Element:
    """An element of a page: ``name``, ``attributes``, ``text`` of all that is in it."""

    def __init__(self, name, attributes):
        self.name = name
        self.attributes = attributes
        self.text = ""


class Page(HTMLParser):
    """A page, taken apart; a browser would have to guess where it isn't well made."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.source = text
        self.elements = []
        self._open = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, name, attributes):
        names = [key for key, _ in attributes]
        assert len(set(names)) == len(names), f"<{name}> has one twice: {names}"
        element = Element(name, dict(attributes))
        self.elements.append(element)
        if name not in _VOID:
            self._open.append(element)

    def handle_endtag(self, name):
        assert self._open and self._open[-1].name == name, f"</{name}> closes nothing"
        self._open.pop()

    def handle_data(self, data):
        for element in self._open:
            element.text += data

    def all(self, name, /, **attributes):
        return [
            element
            for element in self.elements
            if element.name == name
            and all(element.attributes.get(k) == v for k, v in attributes.items())
        ]

    def one(self, name, /, **attributes):
        (found,) = self.all(name, **attributes)
        return found

    @property
    def heading(self):
        return self.one("h1").text

    @property
    def text(self):
        return self.one("main").text

    def rows(self):
        """Cells of the rows of all tables."""
        found = []
        for element in self.elements:
            if element.name == "tr":
                found.append([])
            elif element.name in ("td", "th") and found:
                found[-1].append(element.text)
        return [row for row in found if row]


class Answer:
    """What came: ``status``, ``headers`` (the last of each name), ``body``."""

    def __init__(self, status, headers, body):
        self.status = int(status.split()[0])
        self.headers = {name: value for name, value in headers}
        self.body = body

    @property
    def page(self):
        assert self.headers["Content-Type"].startswith("text/html")
        return Page(self.body.decode())

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def location(self):
        return self.headers["Location"]


class Browser:
    """Asks an application, and keeps its cookies."""

    def __init__(self, application, **environ):
        self._application = validator(application)
        self._environ = environ
        self.cookies = {}

    def open(self, method, address, body=b"", **environ):
        """Return the response's status, headers and body, which is to be closed."""
        path, _, query = address.partition("?")
        request = {
            "REQUEST_METHOD": method,
            "PATH_INFO": urllib.parse.unquote(path, "latin-1"),
            "SCRIPT_NAME": "",
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.input": io.BytesIO(body),
            "HTTP_COOKIE": "; ".join(f"{k}={v}" for k, v in self.cookies.items()),
            **self._environ,
            **environ,
        }
        if method == "POST":
            request.setdefault("CONTENT_TYPE", "application/x-www-form-urlencoded")
        setup_testing_defaults(request)
        started = []

        def start_response(status, headers, exc_info=None):
            started[:] = [status, headers]

        parts = self._application(request, start_response)
        return started, parts

    def ask(self, method, address, body=b"", **environ):
        started, parts = self.open(method, address, body, **environ)
        try:
            answer = Answer(*started, b"".join(parts))
        finally:
            parts.close()
        for name, value in started[1]:
            if name == "Set-Cookie":
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.partition(";")[0]
        return answer

    def get(self, address, **environ):
        return self.ask("GET", address, **environ)

    def page(self, address):
        answer = self.get(address)
        assert answer.status == 200, (answer.status, answer.body.decode())
        return answer.page

    def post(self, address, fields=(), token=None, **environ):
        """Send a form, with the token of this session unless another one is given."""
        if token is None:
            token = self.token()
        body = urllib.parse.urlencode({"csrf": token, **dict(fields)}, doseq=True)
        return self.ask("POST", address, body.encode(), **environ)

    def token(self):
        """The token that this session's forms hold."""
        source = self.get("/login").body or self.get("/jobs").body
        return re.search(rb'name="csrf" value="([^"]*)"', source)[1].decode()

    def log_in(self, user, password):
        return self.post("/login", {"user": user, "password": password})
