"""Words and phrases that signals look for, as plain lists: published ones under their authors' names, and our own."""

from __future__ import annotations

GOPHER_STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
FINEWEB2_STOP_WORDS = tuple("的年在月是和日了於為有被人中为他與後也而由")
"""FineWeb-2's for Chinese (configs/cmn_Hani.yml), without its interpunct, which is no word here."""
ENGLISH_FUNCTION_WORDS = (
    "the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by", "on", "not",
    "he", "i", "this", "are", "or", "his", "from", "at", "which", "but", "have", "an", "had", "they", "you", "were",
    "there", "one", "all", "we", "can", "her", "has", "their", "been", "if", "more", "when", "will", "would", "who",
    "so", "she", "my", "me", "him", "them", "your", "its", "our", "what", "up", "out", "do", "into", "any", "only",
    "than", "then", "these", "those", "some", "could", "may", "should", "about", "how", "other", "such", "must",
    "also", "over", "after", "between", "where", "while",
)  # fmt: skip
"""What English grammar is made of; running English is a third of them."""

BOILERPLATE_PHRASES = (
    "版权所有", "版權所有", "保留所有权利", "备案号", "ICP备", "上一篇", "下一篇", "返回列表", "返回顶部", "分享到",
    "分享至", "打印本页", "关闭窗口", "收藏本", "加入收藏", "设为首页", "责任编辑", "責任編輯", "猜你喜欢", "猜您",
    "相关推荐", "相关阅读", "相关文章", "相關文章", "点击下载", "点击查看", "阅读全文", "閱讀全文", "查看更多",
    "更多内容", "展开全文", "扫一扫", "关注我们", "联系我们", "聯絡我們", "网站地图", "網站地圖", "友情链接",
    "免责声明", "免責聲明", "隐私政策", "隱私權", "用户协议", "服务条款", "首页", "首頁", "转载请", "上一页",
    "下一页", "发表评论", "提交评论", "留下评论", "留言", "微信好友", "微信公众号", "新浪微博", "QQ空间",
    "当前位置", "您的位置", "返回首页", "all rights reserved", "copyright", "privacy policy", "terms of use",
    "terms of service", "cookie policy", "use cookies", "uses cookies", "sign in", "sign up", "log in", "read more",
    "read this next", "click here", "subscribe", "newsletter", "share on", "share this", "follow us", "contact us",
    "about us", "site map", "sitemap", "skip to", "back to top", "print this", "leave a comment", "post a comment",
    "previous post", "next post", "related posts", "related topics", "related articles", "advertisement",
    "powered by", "next page", "previous page",
)  # fmt: skip
"""Phrases of navigation, sharing bars and footers, in both scripts of Chinese and in English."""
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
"""The phrases for which C4 drops a line."""
