"""Words for places in Korean and English, and the words that say nothing."""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    """One thing and its names, the most usual first; all of them normalised."""

    korean: tuple[str, ...]
    english: tuple[str, ...]


GLOSSARY = (
    Meaning(("궁궐", "고궁", "왕궁", "궁전", "궁"), ("palace", "royal palace")),
    Meaning(("사찰", "사원", "산사", "절"), ("temple", "buddhist temple", "monastery")),
    Meaning(("시장", "재래시장", "전통시장"), ("market", "traditional market")),
    Meaning(("음식", "먹거리", "맛집", "길거리 음식"), ("food", "street food", "dishes")),
    Meaning(("해변", "해수욕장", "바닷가", "백사장"), ("beach", "seaside", "shore")),
    Meaning(("바다", "해안"), ("sea", "coast", "ocean")),
    Meaning(("산", "등산", "봉우리"), ("mountain", "hiking", "peak")),
    Meaning(("국립공원",), ("national park",)),
    Meaning(("섬",), ("island",)),
    Meaning(("박물관", "전시"), ("museum", "exhibition")),
    Meaning(("미술관", "미술"), ("art museum", "gallery", "art")),
    Meaning(("공원", "산책"), ("park", "walk")),
    Meaning(("정원", "수목원"), ("garden", "arboretum")),
    Meaning(("한옥", "한옥마을", "전통 가옥"), ("hanok", "traditional house", "folk village")),
    Meaning(("마을", "동네"), ("village", "neighbourhood", "neighborhood")),
    Meaning(("성곽", "성벽", "산성"), ("fortress", "city wall", "castle")),
    Meaning(("무덤", "왕릉", "고분"), ("tomb", "royal tomb", "burial mound")),
    Meaning(("탑", "타워", "전망대"), ("tower", "observatory", "view")),
    Meaning(("야경", "밤"), ("night view", "night")),
    Meaning(("폭포",), ("waterfall",)),
    Meaning(("동굴",), ("cave", "lava tube")),
    Meaning(("호수", "연못"), ("lake", "pond")),
    Meaning(("강", "하천", "개천"), ("river", "stream")),
    Meaning(("갈대", "습지", "갯벌"), ("wetland", "reed", "tidal flat")),
    Meaning(("쇼핑", "상가", "번화가"), ("shopping", "shopping street")),
    Meaning(("세계유산", "유네스코"), ("world heritage", "unesco")),
    Meaning(("역사", "유적"), ("history", "historic site")),
    Meaning(("차밭", "녹차"), ("tea field", "green tea")),
    Meaning(("벚꽃", "꽃"), ("cherry blossom", "flower")),
    Meaning(("케이블카",), ("cable car",)),
    Meaning(("서원", "향교"), ("confucian academy", "academy")),
    Meaning(("서울",), ("seoul",)),
    Meaning(("부산",), ("busan",)),
    Meaning(("제주", "제주도"), ("jeju",)),
    Meaning(("경주",), ("gyeongju",)),
    Meaning(("전주",), ("jeonju",)),
    Meaning(("강릉",), ("gangneung",)),
    Meaning(("속초",), ("sokcho",)),
    Meaning(("수원",), ("suwon",)),
    Meaning(("인천",), ("incheon",)),
    Meaning(("대구",), ("daegu",)),
    Meaning(("안동",), ("andong",)),
    Meaning(("여수",), ("yeosu",)),
    Meaning(("순천",), ("suncheon",)),
    Meaning(("통영",), ("tongyeong",)),
    Meaning(("공주",), ("gongju",)),
    Meaning(("부여",), ("buyeo",)),
    Meaning(("경복궁",), ("gyeongbokgung",)),
    Meaning(("창덕궁",), ("changdeokgung",)),
    Meaning(("덕수궁",), ("deoksugung",)),
    Meaning(("남산",), ("namsan",)),
    Meaning(("북촌",), ("bukchon",)),
    Meaning(("해운대",), ("haeundae",)),
    Meaning(("한라산",), ("hallasan",)),
    Meaning(("설악산",), ("seoraksan",)),
    Meaning(("불국사",), ("bulguksa",)),
)

_SAYING_NOTHING = """
a about an and any are at be best can could did do does find for from go good have how i in is it
its know like me my near nice of on or please recommend see should show some tell that the there
this to visit want was we were what when where which who why will with would you your
어디 어디에 어디야 어디예요 어디인가요 어디가 무엇 무슨 뭐 뭐가 어떤 어떻게 언제 누가 왜
그리고 및 또는 좀 수 있는 있어 있어요 있나요 있습니까 있는지 알려줘 알려주세요
추천 추천해 추천해줘 추천해주세요 가볼 갈 볼 만한 만한곳 가볼만한 곳 곳은 좋은
싶어 싶어요 보여줘 보고 가고 해줘 주세요
"""
STOP_WORDS = frozenset(_SAYING_NOTHING.split())

_PARTICLES = """
에서는 에서도 으로는 에서 에게 에는 에도 까지 부터 처럼 으로 이랑 하고 이나
은 는 이 가 을 를 의 에 도 로 와 과 만 랑
"""
PARTICLES = tuple(_PARTICLES.split())  # the longest first, so that "에서는" goes as a whole
