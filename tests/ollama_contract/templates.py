"""The Go template of the recorded model "tiny"."""

TEMPLATE = (
    '{{ if .System }}<|system|>\n{{ .System }}</s>\n{{ end }}{{ range .Messages }}{{ if ne .Role "system" }}'
    "<|{{ .Role }}|>\n{{ .Content }}</s>\n{{ end }}{{ end }}<|assistant|>\n"
)
