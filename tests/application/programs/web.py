"""The web service: every visit is a row in PostgreSQL and a count in Redis, over connections of its own.

`/visit?by=NAME` answers with both counts; `/totals` tells them, and how many visits each visitor made, changing nothing.
"""

import http.server
import json
import os
import signal
import sys
import time
import urllib.parse

import psycopg2
import redis

PASSWORD = os.environ["PASSWORD"]


def database():
    return psycopg2.connect(host="db", user="postgres", password=PASSWORD, dbname="postgres", connect_timeout=5)


def cache():
    return redis.Redis(host="cache", socket_timeout=5)


def make_table():
    for _ in range(300):
        try:
            with database() as connection, connection.cursor() as cursor:
                cursor.execute("create table if not exists visits (number serial primary key, visitor text not null)")
            return
        except psycopg2.OperationalError:
            time.sleep(0.1)
    sys.exit("there is no database")


def visit(visitor):
    connection = database()
    with connection, connection.cursor() as cursor:
        cursor.execute("insert into visits (visitor) values (%s) returning number", (visitor,))
        number = cursor.fetchone()[0]
    connection.close()
    return {"row": number, "count": cache().incr("visits")}


def totals():
    connection = database()
    with connection, connection.cursor() as cursor:
        cursor.execute("select visitor, count(*) from visits group by visitor")
        visitors = dict(cursor.fetchall())
    connection.close()
    return {"visitors": visitors, "rows": sum(visitors.values()), "count": int(cache().get("visits") or 0)}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        address = urllib.parse.urlsplit(self.path)
        try:
            query = urllib.parse.parse_qs(address.query)
            self.answer(200, visit(query["by"][0]) if address.path == "/visit" else totals())
        except Exception as error:
            self.answer(500, {"error": f"{type(error).__name__}: {error}"})

    def answer(self, status, value):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, form, *args):
        print(form % args, flush=True)


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
make_table()
Server(("0.0.0.0", 8000), Handler).serve_forever()
