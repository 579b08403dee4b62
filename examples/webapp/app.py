"""Visits, counted; /health answers 503 after a POST to /break, so that the health check has something to find."""

import flask

app = flask.Flask(__name__)
state = {"visits": 0, "healthy": True}


@app.get("/")
def visits():
    state["visits"] += 1
    return {"visits": state["visits"], "from": flask.request.headers.get("User-Agent", "")}


@app.get("/health")
def health():
    return ("well\n", 200) if state["healthy"] else ("broken\n", 503)


@app.post("/break")
def break_it():
    state["healthy"] = False
    return "broken\n"
