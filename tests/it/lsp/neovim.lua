-- A person in Neovim opens `web.ron`, sees the typing error, mends it, and asks for a meaning, for words, and for the
-- manifest of another app. Prints what the editor showed as one line of JSON. $SHOWN names the file for it.
local function wait(what, holds)
  if not vim.wait(60000, holds, 20) then
    error("waited in vain: " .. what .. "; shown: " .. vim.inspect(vim.diagnostic.get(0)))
  end
end

local function problems()
  return vim.tbl_map(function(one) return { one.lnum, one.col, one.message } end, vim.diagnostic.get(0))
end

local function is_told(text)
  return function() return #problems() == 1 and problems()[1][3]:find(text, 1, true) ~= nil end
end

local function floating()
  for _, window in ipairs(vim.api.nvim_list_wins()) do
    if vim.api.nvim_win_get_config(window).relative ~= "" then return vim.api.nvim_win_get_buf(window) end
  end
end

local function story()
  local shown = {}
  wait("the mistake is underlined", is_told("comand"))
  shown.mistake = problems()[1]
  vim.api.nvim_buf_set_lines(0, 1, 2, true, { '    command: "/bin/sleep",' })
  wait("it is gone, and the next one is underlined", is_told("dispaly"))
  shown.next = problems()[1]

  vim.api.nvim_win_set_cursor(0, { 3, 18 })
  vim.lsp.buf.hover()
  wait("the meaning of `grace` is shown", floating)
  shown.meaning = table.concat(vim.api.nvim_buf_get_lines(floating(), 0, -1, true), "\n")

  vim.api.nvim_win_set_cursor(0, { 4, 13 })
  local place = vim.lsp.util.make_position_params()
  shown.words = {}
  for _, answer in pairs(vim.lsp.buf_request_sync(0, "textDocument/completion", place, 60000)) do
    for _, item in ipairs(answer.result) do table.insert(shown.words, item.label) end
  end

  vim.api.nvim_buf_set_lines(0, 3, 4, true, { '    after: ["display"],' })
  wait("no problem is left", function() return #problems() == 0 end)
  vim.api.nvim_win_set_cursor(0, { 4, 15 })
  vim.lsp.buf.definition()
  wait("the other manifest is shown", function() return vim.api.nvim_buf_get_name(0):find("display.ron", 1, true) end)
  return shown
end

local worked, shown = pcall(story)
local file = assert(io.open(os.getenv("SHOWN"), "w"))
file:write(vim.fn.json_encode(worked and shown or { failed = tostring(shown) }))
file:close()
vim.cmd("qa!")
