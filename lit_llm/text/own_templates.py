"""The chat templates of models that bring none: ChatML, and plain words for vocabularies without its tokens.

Both write tools, tool calls, results and reasoning too. A conversation without these reads as if they knew none.
"""

_TOOLS = """\
{%- if messages[0]['role'] == 'system' %}
{{- messages[0]['content'] + '\\n\\n' }}
{%- endif %}
{{- 'These tools can be called:\\n' }}
{%- for tool in tools %}
{{- tool | tojson + '\\n' }}
{%- endfor %}
{{- '\\nA call is written as:\\n' }}
{{- '<tool_call>\\n{"name": "name of the tool", "arguments": {"name": "value"}}\\n</tool_call>' }}
"""
"""Of the system message; a call as an example that the model can copy."""

_SAID = """\
{%- if message['reasoning_content'] %}
{{- '<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n' }}
{%- endif %}
{{- message['content'] or '' }}
{%- for call in message['tool_calls'] or [] %}
{%- if message['content'] or not loop.first %}
{{- '\\n' }}
{%- endif %}
{{- '<tool_call>\\n{"name": ' + call['function']['name'] | tojson }}
{{- ', "arguments": ' + call['function']['arguments'] | tojson + '}\\n</tool_call>' }}
{%- endfor %}
"""
"""What an assistant writes, but for its end."""

CHATML = (
    "{%- if tools %}\n{{- '<|im_start|>system\\n' }}\n"
    + _TOOLS
    + """\
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message['role'] == 'system') %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
"""
    + _SAID
    + """\
{{- '<|im_end|>' }}
{%- else %}
{{- message['content'] + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
)

PLAIN = (
    "{%- if tools %}\n{{- 'System: ' }}\n"
    + _TOOLS
    + """\
{{- '\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message['role'] == 'system') %}
{{- message['role'] | capitalize + ': ' }}
{%- if message['role'] == 'assistant' %}
"""
    + _SAID
    + """\
{{- eos_token }}
{%- else %}
{{- message['content'] }}
{%- endif %}
{{- '\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- 'Assistant: ' }}
{%- endif %}
"""
)
"""For a base model whose vocabulary has no ChatML tokens: no new tokens are needed."""
