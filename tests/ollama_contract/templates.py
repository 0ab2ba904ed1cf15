"""The Go templates of the tests, each with a Jinja text that renders the same: no Go interpreter is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jinja2

TEMPLATE = (  # of the recorded model "tiny"
    '{{ if .System }}<|system|>\n{{ .System }}</s>\n{{ end }}{{ range .Messages }}{{ if ne .Role "system" }}'
    "<|{{ .Role }}|>\n{{ .Content }}</s>\n{{ end }}{{ end }}<|assistant|>\n"
)
FOLDING = '{{ range .Messages }}{{ if eq .Role "user" }}Q: {{ .Content }}\n{{ end }}{{ end }}A:'  # no system role
OTHER = "{{ range .Messages }}<|{{ .Role }}|> {{ .Content }}\n{{ end }}<|assistant|>\n"
JINJA = {
    TEMPLATE: "{% if system %}<|system|>\n{{ system }}</s>\n{% endif %}"
    "{% for m in messages if m.role != 'system' %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}<|assistant|>\n",
    FOLDING: "{% for m in messages if m.role == 'user' %}Q: {{ m.content }}\n{% endfor %}A:",
    OTHER: "{% for m in messages %}<|{{ m.role }}|> {{ m.content }}\n{% endfor %}<|assistant|>\n",
}
PAGES = jinja2.Environment(keep_trailing_newline=True)


def render(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """Render one of the templates above as Ollama does: `.System` is all system texts, neighbours of one role are one.

    (ollama, template/template.go, `collate`)
    """
    collated: list[dict[str, str]] = []
    for message in messages:
        if collated and collated[-1]["role"] == message["role"]:
            collated[-1]["content"] += "\n\n" + message["content"]
        else:
            collated.append({"role": message["role"], "content": message["content"]})
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    return PAGES.from_string(JINJA[template]).render(system=system, messages=collated)
